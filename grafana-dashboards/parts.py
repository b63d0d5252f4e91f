"""What all panels and dashboards have in common.

Colours are names of Grafana's palette: they suit the light and the dark theme.
"""

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import (heatmap, prometheus, stat,
                                             statetimeline, table, timeseries)
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# what the SDK's panels are of; a newer Grafana migrates them from there
GRAFANA = "11.6.0"

# a scrape: no step is shorter, and $__rate_interval is four at least
SCRAPE = "15s"

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

PER_MINUTE = "suffix: /min"
TOKENS_PER_SECOND = "suffix: tok/s"

DASHBOARDS = {
    "clawd-overview": "Gateway Overview",
    "clawd-models": "Model Performance",
    "clawd-users": "Users and Quotas",
}


def query(expr, legend="", instant=False, exemplar=False, form=None):
    target = (prometheus.Dataquery().expr(expr).datasource(SOURCE)
              .legend_format(legend).exemplar(exemplar)
              .format(form or (PromQueryFormat.TABLE if instant
                               else PromQueryFormat.TIME_SERIES)))
    return target.instant() if instant else target.range()


def steps(*colours):
    """Thresholds: steps("green", (0.8, "orange"), (0.9, "red"))."""
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps([
        model.Threshold(value=None if isinstance(step, str) else step[0],
                        color=step if isinstance(step, str) else step[1])
        for step in colours])


PLAIN = ("text",)


def colour(mode):
    return build.FieldColor().mode(mode)


def fixed(name):
    return model.DynamicConfigValue(
        id_val="color", value={"mode": "fixed", "fixedColor": name})


def value_map(**texts):
    """value_map(_1=("Up", "green")): what to show for a number."""
    return [model.ValueMap(options={
        number.removeprefix("_"): model.ValueMappingResult(
            text=text, color=name, index=index)
        for index, (number, (text, name)) in enumerate(texts.items())})]


UP = value_map(_1=("Up", "green"), _0=("Down", "red"))


def link_to(uid, title, variables=""):
    """A link of a value to a dashboard, with the time and all variables."""
    address = f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}"
    return build.DashboardLink(title).url(address + variables)


def finish(panel, title, description, unit, width, height, targets):
    """What every panel has.  Targets are named A, B, C, ..."""
    panel = (panel.title(title).description(description).unit(unit)
             .datasource(SOURCE).interval(SCRAPE).span(width).height(height))
    for name, target in zip("ABCDEFGHIJ", targets, strict=False):
        panel.with_target(target.ref_id(name))
    return panel


def number(title, description, expr, unit, decimals=None, thresholds=PLAIN,
           none="none", mappings=None, link=None):
    """One number for the whole range, or of now."""
    panel = finish(stat.Panel(), title, description, unit, 3, 4,
                   [query(expr, title, instant=True,
                          form=PromQueryFormat.TIME_SERIES)])
    panel.thresholds(steps(*thresholds)).no_value(none)
    panel.color_scheme(colour(model.FieldColorModeId.THRESHOLDS))
    panel.graph_mode(common.BigValueGraphMode.NONE)
    panel.color_mode(common.BigValueColorMode.VALUE)
    panel.text_mode(common.BigValueTextMode.VALUE)
    panel.reduce_options(
        build_common.ReduceDataOptions().calcs(["lastNotNull"]))
    if decimals is not None:
        panel.decimals(decimals)
    if mappings:
        panel.mappings(mappings)
    if link:
        panel.data_links([link])
    return panel


def lines(title, description, unit, *targets, width=8, stacked=False,
          bars=False, most=None, limit=None, colours=None, links=()):
    """Series over time; limit draws a dashed line, most is the axis's end."""
    panel = finish(timeseries.Panel(), title, description, unit, width, 9,
                   targets)
    panel.min(0).axis_soft_min(0).span_nulls(False)
    panel.show_points(common.VisibilityMode.AUTO)
    panel.line_width(1 if stacked or bars else 2)
    panel.fill_opacity(60 if bars else 25 if stacked else 0)
    panel.color_scheme(colour(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    panel.tooltip(build_common.VizTooltipOptions()
                  .mode(common.TooltipDisplayMode.MULTI)
                  .sort(common.SortOrder.DESCENDING))
    panel.legend(build_common.VizLegendOptions()
                 .display_mode(common.LegendDisplayMode.TABLE)
                 .placement(common.LegendPlacement.BOTTOM).show_legend(True)
                 .calcs(["mean", "max", "lastNotNull"])
                 .sort_by("Max").sort_desc(True))
    if bars:
        panel.draw_style(common.GraphDrawStyle.BARS)
    if stacked:
        panel.stacking(build_common.StackingConfig()
                       .mode(common.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel.max(most)
    if limit is not None:
        panel.thresholds(steps("green", (limit, "red")))
        panel.thresholds_style(build_common.GraphThresholdsStyleConfig()
                               .mode(common.GraphThresholdsStyleMode.DASHED))
    for name, shade in (colours or {}).items():
        panel.override_by_name(name, [fixed(shade)])
    if links:
        panel.data_links(list(links))
    return panel


QUANTILES = {"P50": "green", "P95": "orange", "P99": "red"}


def quantiles(title, description, of, exemplars=True, **options):
    """P50, P95 and P99; of(q) is the query.  P95 carries the exemplars."""
    return lines(title, description, "s", *(
        query(of(int(name[1:]) / 100), name,
              exemplar=exemplars and name == "P95")
        for name in QUANTILES), colours=QUANTILES, **options)


def cells(title, description, unit, target, scheme, width=8, exact=False):
    """A heat map: of a histogram's buckets, or with a row for each series."""
    panel = finish(heatmap.Panel(), title, description, unit, width, 9,
                   [target])
    axis = heatmap.YAxisConfig().axis_placement(common.AxisPlacement.LEFT)
    if not exact:
        axis.unit(unit)
    panel.calculate(False).cell_gap(1).y_axis(axis)
    panel.color(heatmap.HeatmapColorOptions()
                .mode(heatmap_model.HeatmapColorMode.SCHEME).scheme(scheme)
                .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
                .exponent(0.5).steps(64).reverse(False).fill("dark-orange"))
    panel.filter_values(heatmap.FilterValueRange().le(1e-9))
    layout = common.HeatmapCellLayout
    panel.rows_frame(heatmap.RowsHeatmapOptions()
                     .layout(layout.UNKNOWN if exact else layout.AUTO)
                     .value("Errors" if exact else "Requests"))
    panel.cell_values(heatmap.CellValues().decimals(1))
    panel.scale_distribution(build_common.ScaleDistributionConfig()
                             .type(common.ScaleDistribution.LINEAR))
    panel.show_legend().mode(common.TooltipDisplayMode.SINGLE)
    panel.show_color_scale(True).exemplars_color("blue")
    return panel.show_y_histogram() if not exact else panel


def states(title, description, target, mappings):
    panel = finish(statetimeline.Panel(), title, description, "none", 8, 9,
                   [target])
    panel.mappings(mappings).thresholds(steps("red", (1, "green")))
    panel.color_scheme(colour(model.FieldColorModeId.THRESHOLDS))
    panel.merge_values(True).row_height(0.6).fill_opacity(70).line_width(0)
    panel.show_value(common.VisibilityMode.AUTO)
    return panel.legend(build_common.VizLegendOptions().show_legend(False)
                        .display_mode(common.LegendDisplayMode.LIST)
                        .placement(common.LegendPlacement.BOTTOM))


def rows(title, description, keys, columns, sort, width=24, height=9,
         only=None):
    """A table: label -> column title, and column -> (query, unit, options).

    Rows of different queries meet where all their labels agree.  Options are
    properties of the column's fields, by the identifiers that Grafana has.
    The first key links to the dashboard `only`, for that value alone.
    """
    panel = finish(table.Panel(), title, description, "locale", width, height,
                   [query(expr, instant=True)
                    for expr, _, _ in columns.values()])
    names = {**keys, **{
        "Value" if len(columns) == 1 else f"Value #{ref}": name
        for ref, name in zip("ABCDEFGHIJ", columns, strict=False)}}
    panel.with_transformation(model.DataTransformerConfig(
        id_val="merge", options={}))
    panel.with_transformation(model.DataTransformerConfig(
        id_val="organize", options={
            "excludeByName": {"Time": True},
            "indexByName": {name: i for i, name in enumerate(names)},
            "renameByName": names}))
    panel.thresholds(steps(*PLAIN)).no_value("–")
    panel.sort_by([build_common.TableSortByFieldState()
                   .display_name(sort).desc(True)])
    panel.cell_height(common.TableCellHeight.SM).filterable(False)
    panel.color_scheme(colour(model.FieldColorModeId.THRESHOLDS))
    for name, (_, unit, options) in columns.items():
        panel.override_by_name(name, [
            model.DynamicConfigValue(id_val=key, value=value)
            for key, value in {"unit": unit, **options}.items()])
    if only:
        label, name = next(iter(keys.items()))
        panel.override_by_name(name, [model.DynamicConfigValue(
            id_val="links", value=[link_to(
                only, "Only ${__value.text}",
                f"&var-{label}=${{__value.text:percentencode}}").build()])])
    return panel


def column(*colours, cell="color-text", **more):
    """A table column's colours, by thresholds, and more of its properties."""
    return {"thresholds": steps(*colours).build(),
            "custom.cellOptions": {"type": cell}, **more}


def label_variable(name, label, metric, description):
    return (build.QueryVariable(name).label(label).description(description)
            .query(f"label_values({metric}, {name})").datasource(SOURCE)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.NATURAL_ASC)
            .multi(True).include_all(True).all_value(".*")
            .current(model.VariableOption(selected=True, text=["All"],
                                          value=["$__all"])))


MODEL = ("model", "Model", "clawdbot_model_request_total",
         "Models that a 2xx has answered for; the rest is \"other\".")
USER = ("user", "User", "clawdbot_user_requests_total",
        "The first 128 users; the rest is \"other\".")


class Annotation(model.AnnotationQuery):
    """With the fields of Prometheus's annotations, which the SDK lacks."""

    def to_json(self):
        return {**super().to_json(), "step": SCRAPE, "tagKeys": "severity",
                "titleFormat": "{{alertname}}", "textFormat": "{{model}}"}


ALERTS = Annotation(
    name="Alerts", datasource=SOURCE, icon_color="red", hide=False,
    expr='max by (alertname, severity, model)'
         ' (ALERTS{alertstate="firing"})')


def dashboard(uid, description, variables, content):
    """content: rows as (title, panels).  None is no row of its own; a title
    that is a variable makes a row for each of its values."""
    board = (build.Dashboard(DASHBOARDS[uid]).uid(uid).description(description)
             .tags(["clawd"]).timezone("browser").refresh("30s")
             .time("now-1h", "now").editable()
             .tooltip(model.DashboardCursorSync.CROSSHAIR)
             .with_variable(build.DatasourceVariable("datasource")
                            .label("Data source").type("prometheus")
                            .description("The Prometheus that scrapes the"
                                         " gateway.")))

    for variable in variables:
        board.with_variable(label_variable(*variable))

    for other, title in DASHBOARDS.items():
        if other != uid:
            board.link(build.DashboardLink(title)
                       .type(model.DashboardLinkType.LINK)
                       .url(f"/d/{other}").icon("dashboard")
                       .tooltip(f"{title}, of the same time and selection")
                       .keep_time(True).include_vars(True))

    for title, panels in content:
        if title:
            row = build.Row(title)
            if title.startswith("$"):
                row.repeat(title.removeprefix("$"))
            board.with_row(row)
        for panel in panels:
            board.with_panel(panel)

    made = board.build()
    made.annotations = model.AnnotationContainer(list_val=[ALERTS])

    for i, panel in enumerate(made.panels, start=1):
        panel.id_val = i
        if isinstance(panel, model.Panel):
            panel.plugin_version = GRAFANA

    return made
