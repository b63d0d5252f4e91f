"""PromQL of the panels.

A model's, a user's and a histogram's series is not there before its first
request: it is born with the first count in it.  increase() and rate() see
only what comes after that, so they would show nothing of the first question
ever asked.  The forms below count it.

They tell a series that was born from one that Prometheus did not see for a
while by a series that each gateway shows from its first scrape on, GATEWAY.
"""

GATEWAY = "clawdbot_zone_size_bytes"
WINDOW = "$__rate_interval"
RANGE = "$__range"


def select(metric, **labels):
    """`metric{label=~"value",...}`"""
    inner = ",".join(f'{name}=~"{value}"' for name, value in labels.items())
    return f"{metric}{{{inner}}}" if inner else metric


def grew(series):
    """By how much a counter grew in the window that ends at each point.

    All that it has if it was not there a window ago, though its gateway was.
    """
    return (f"  {series}\n"
            f"    unless {series} offset {WINDOW}\n"
            f"    and on (job, instance) {GATEWAY} offset {WINDOW}\n"
            f"  or increase({series}[{WINDOW}])")


def total(series):
    """By how much a counter grew in the whole range, to the unit.

    increase() extrapolates to the ends of the range, which makes 2.1 of two
    requests; so it is left to those counters that were reset or are gone.
    """
    return (f"  {series} - min_over_time({series}[{RANGE}])\n"
            f"    * (count_over_time({series}[{RANGE}])\n"
            f"      == bool on (job, instance) group_left\n"
            f"      count_over_time({GATEWAY}[{RANGE}]))\n"
            f"    unless resets({series}[{RANGE}]) > 0\n"
            f"  or increase({series}[{RANGE}])")


def summed(of, *by):
    """The sum of a vector, by labels."""
    head = f"sum by ({', '.join(by)}) (" if by else "sum("
    return f"{head}\n{of}\n)"


def per_second(series, *by):
    return f"{summed(grew(series), *by)} * 1000 / $__rate_interval_ms"


def per_minute(series, *by):
    return f"{summed(grew(series), *by)} * 60000 / $__rate_interval_ms"


def events(series, label):
    """Per minute, only those that happen; a zero called "none" without any."""
    return (f"{per_minute(series, label)} > 0\n"
            f'or on () label_replace(0 * sum({series}),'
            f' "{label}", "none", "", "")')


def share(part, whole, match=""):
    """A ratio that is not there, instead of not a number, where whole is 0."""
    return f"{part}\n/ {match}({whole} > 0)"


def quantile(q, histogram, *by, over=grew, **labels):
    """The comparison drops what is not a number: there was no request."""
    buckets = select(f"{histogram}_bucket", **labels)
    return (f"histogram_quantile({q}, {summed(over(buckets), 'le', *by)}"
            ") >= 0")


def mean(histogram, **labels):
    return share(summed(grew(select(f"{histogram}_sum", **labels))),
                 summed(grew(select(f"{histogram}_count", **labels))))
