/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_text.h"


#define NGX_HTTP_CLAWD_MICRO  1000000
#define NGX_HTTP_CLAWD_MILLI  1000


static void ngx_http_clawd_text_put(ngx_http_clawd_text_t *t, u_char *p,
    size_t len);
static void ngx_http_clawd_text_puts(ngx_http_clawd_text_t *t, char *s);
static void ngx_http_clawd_text_uint(ngx_http_clawd_text_t *t, uint64_t n);
static void ngx_http_clawd_text_fixed(ngx_http_clawd_text_t *t, uint64_t n,
    uint64_t unit);
static void ngx_http_clawd_text_escaped(ngx_http_clawd_text_t *t,
    ngx_str_t *value);
static void ngx_http_clawd_text_series(ngx_http_clawd_text_t *t, char *name,
    char *suffix, ngx_http_clawd_label_t *labels, const ngx_str_t *le);
static ngx_uint_t ngx_http_clawd_text_id_plain(ngx_str_t *id);
static void ngx_http_clawd_text_exemplar(ngx_http_clawd_text_t *t,
    ngx_http_clawd_exemplar_t *e);
static ngx_str_t ngx_http_clawd_accept_cut(ngx_str_t *rest,
    u_char separator);
static ngx_uint_t ngx_http_clawd_accept_is(ngx_str_t *s, char *lower);
static ngx_uint_t ngx_http_clawd_accept_q(ngx_str_t *s);


static void
ngx_http_clawd_text_put(ngx_http_clawd_text_t *t, u_char *p, size_t len)
{
    size_t  n;

    while (len) {
        if (t->failed) {
            return;
        }

        if (t->pos == t->last) {
            if (t->more(t) != NGX_OK) {
                t->failed = 1;
            }

            continue;
        }

        n = ngx_min(len, (size_t) (t->last - t->pos));

        t->pos = ngx_cpymem(t->pos, p, n);
        p += n;
        len -= n;
    }
}


static void
ngx_http_clawd_text_puts(ngx_http_clawd_text_t *t, char *s)
{
    ngx_http_clawd_text_put(t, (u_char *) s, ngx_strlen(s));
}


static void
ngx_http_clawd_text_uint(ngx_http_clawd_text_t *t, uint64_t n)
{
    u_char  *p, buf[NGX_INT64_LEN];

    p = buf + NGX_INT64_LEN;

    do {
        *--p = (u_char) ('0' + n % 10);
        n /= 10;
    } while (n);

    ngx_http_clawd_text_put(t, p, buf + NGX_INT64_LEN - p);
}


/* n / unit, a power of ten, exactly and without trailing zeros */

static void
ngx_http_clawd_text_fixed(ngx_http_clawd_text_t *t, uint64_t n, uint64_t unit)
{
    u_char     c;
    uint64_t   rest;

    ngx_http_clawd_text_uint(t, n / unit);

    rest = n % unit;

    if (rest == 0) {
        return;
    }

    ngx_http_clawd_text_puts(t, ".");

    while (rest) {
        unit /= 10;
        c = (u_char) ('0' + rest / unit);
        rest %= unit;

        ngx_http_clawd_text_put(t, &c, 1);
    }
}


static void
ngx_http_clawd_text_escaped(ngx_http_clawd_text_t *t, ngx_str_t *value)
{
    u_char  *p, *last, *start;

    last = value->data + value->len;

    for (start = p = value->data; p < last; p++) {

        if (*p != '\\' && *p != '"' && *p != '\n') {
            continue;
        }

        ngx_http_clawd_text_put(t, start, p - start);
        ngx_http_clawd_text_puts(t, *p == '\n' ? "\\n"
                                    : *p == '"' ? "\\\"" : "\\\\");
        start = p + 1;
    }

    ngx_http_clawd_text_put(t, start, p - start);
}


void
ngx_http_clawd_text_family(ngx_http_clawd_text_t *t,
    ngx_http_clawd_metric_e type, char *name, char *help)
{
    char  *total;

    static char  *types[] = { "counter", "gauge", "histogram" };

    /* OpenMetrics names the family, Prometheus the samples */

    total = (type == NGX_HTTP_CLAWD_COUNTER && !t->openmetrics) ? "_total"
                                                                : "";

    ngx_http_clawd_text_puts(t, "# HELP ");
    ngx_http_clawd_text_puts(t, name);
    ngx_http_clawd_text_puts(t, total);
    ngx_http_clawd_text_puts(t, " ");
    ngx_http_clawd_text_puts(t, help);
    ngx_http_clawd_text_puts(t, "\n# TYPE ");
    ngx_http_clawd_text_puts(t, name);
    ngx_http_clawd_text_puts(t, total);
    ngx_http_clawd_text_puts(t, " ");
    ngx_http_clawd_text_puts(t, types[type]);
    ngx_http_clawd_text_puts(t, "\n");
}


/* A sample's name and labels, with the space before the value. */

static void
ngx_http_clawd_text_series(ngx_http_clawd_text_t *t, char *name, char *suffix,
    ngx_http_clawd_label_t *labels, const ngx_str_t *le)
{
    char  *separator;

    ngx_http_clawd_text_puts(t, name);
    ngx_http_clawd_text_puts(t, suffix);

    separator = "{";

    for ( /* void */ ; labels && labels->key; labels++) {
        ngx_http_clawd_text_puts(t, separator);
        ngx_http_clawd_text_puts(t, labels->key);
        ngx_http_clawd_text_puts(t, "=\"");
        ngx_http_clawd_text_escaped(t, &labels->value);
        ngx_http_clawd_text_puts(t, "\"");

        separator = ",";
    }

    if (le) {
        ngx_http_clawd_text_puts(t, separator);
        ngx_http_clawd_text_puts(t, "le=\"");
        ngx_http_clawd_text_put(t, le->data, le->len);
        ngx_http_clawd_text_puts(t, "\"");

        separator = ",";
    }

    ngx_http_clawd_text_puts(t, *separator == ',' ? "} " : " ");
}


void
ngx_http_clawd_text_value(ngx_http_clawd_text_t *t,
    ngx_http_clawd_metric_e type, char *name, ngx_http_clawd_label_t *labels,
    uint64_t value)
{
    ngx_http_clawd_text_series(t, name,
                               type == NGX_HTTP_CLAWD_COUNTER ? "_total" : "",
                               labels, NULL);
    ngx_http_clawd_text_uint(t, value);
    ngx_http_clawd_text_puts(t, "\n");
}


void
ngx_http_clawd_text_histogram(ngx_http_clawd_text_t *t, char *name,
    ngx_http_clawd_label_t *labels, ngx_http_clawd_scale_e scale,
    ngx_http_clawd_snapshot_t *s)
{
    ngx_str_t                      id;
    ngx_uint_t                     i, n, told;
    const ngx_http_clawd_bound_t  *bounds;

    id.len = s->exemplar.len;
    id.data = s->exemplar.id;

    told = !t->openmetrics || !ngx_http_clawd_text_id_plain(&id);

    bounds = ngx_http_clawd_histogram_bounds(scale, &n);

    for (i = 0; i < n; i++) {
        ngx_http_clawd_text_series(t, name, "_bucket", labels, &bounds[i].le);
        ngx_http_clawd_text_uint(t, s->buckets[i]);

        if (!told && s->exemplar.value <= bounds[i].value) {
            ngx_http_clawd_text_exemplar(t, &s->exemplar);
            told = 1;
        }

        ngx_http_clawd_text_puts(t, "\n");
    }

    ngx_http_clawd_text_series(t, name, "_sum", labels, NULL);
    ngx_http_clawd_text_fixed(t, s->sum, NGX_HTTP_CLAWD_MICRO);
    ngx_http_clawd_text_puts(t, "\n");

    ngx_http_clawd_text_series(t, name, "_count", labels, NULL);
    ngx_http_clawd_text_uint(t, s->buckets[n - 1]);
    ngx_http_clawd_text_puts(t, "\n");
}


/*
 * Clients may choose their ids, and not every reader of exemplars copes with
 * escapes: only what needs none is shown.
 */

static ngx_uint_t
ngx_http_clawd_text_id_plain(ngx_str_t *id)
{
    u_char  c;
    size_t  i;

    for (i = 0; i < id->len; i++) {
        c = id->data[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
              || (c >= '0' && c <= '9')
              || (c && ngx_strchr("._:/@+-", c))))
        {
            return 0;
        }
    }

    return id->len != 0;
}


static void
ngx_http_clawd_text_exemplar(ngx_http_clawd_text_t *t,
    ngx_http_clawd_exemplar_t *e)
{
    ngx_http_clawd_text_puts(t, " # {request_id=\"");
    ngx_http_clawd_text_put(t, e->id, e->len);
    ngx_http_clawd_text_puts(t, "\"} ");
    ngx_http_clawd_text_fixed(t, e->value, NGX_HTTP_CLAWD_MICRO);
    ngx_http_clawd_text_puts(t, " ");
    ngx_http_clawd_text_fixed(t, e->time, NGX_HTTP_CLAWD_MILLI);
}


void
ngx_http_clawd_text_end(ngx_http_clawd_text_t *t)
{
    if (t->openmetrics) {
        ngx_http_clawd_text_puts(t, "# EOF\n");
    }
}


ngx_uint_t
ngx_http_clawd_text_wants_openmetrics(ngx_str_t *accept)
{
    ngx_str_t   rest, range, type, name, value;
    ngx_uint_t  q, plain, openmetrics, ours;

    rest = *accept;
    plain = 0;
    openmetrics = 0;

    while (rest.len) {
        range = ngx_http_clawd_accept_cut(&rest, ',');
        type = ngx_http_clawd_accept_cut(&range, ';');

        q = 1000;
        ours = 1;

        while (range.len) {
            value = ngx_http_clawd_accept_cut(&range, ';');
            name = ngx_http_clawd_accept_cut(&value, '=');
            value = ngx_http_clawd_accept_cut(&value, ';');

            if (ngx_http_clawd_accept_is(&name, "q")) {
                q = ngx_http_clawd_accept_q(&value);

            } else if (ngx_http_clawd_accept_is(&name, "version")) {
                ours = ngx_http_clawd_accept_is(&value, "1.0.0");
            }
        }

        if (ngx_http_clawd_accept_is(&type, "application/openmetrics-text")) {
            openmetrics = ours ? ngx_max(openmetrics, q) : openmetrics;

        } else if (ngx_http_clawd_accept_is(&type, "text/plain")
                   || ngx_http_clawd_accept_is(&type, "text/*")
                   || ngx_http_clawd_accept_is(&type, "*/*"))
        {
            plain = ngx_max(plain, q);
        }
    }

    return openmetrics && openmetrics >= plain;
}


/*
 * Cuts what is before the separator, or all, off the start of *rest; blanks
 * and quotes around it are dropped.
 */

static ngx_str_t
ngx_http_clawd_accept_cut(ngx_str_t *rest, u_char separator)
{
    u_char     *p, *last;
    ngx_str_t   s;

    last = rest->data + rest->len;

    for (p = rest->data; p < last && *p != separator; p++) { /* void */ }

    s.data = rest->data;
    s.len = p - s.data;

    p += (p < last);

    rest->data = p;
    rest->len = last - p;

    while (s.len && (*s.data == ' ' || *s.data == '\t' || *s.data == '"')) {
        s.data++;
        s.len--;
    }

    while (s.len && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t'
                     || s.data[s.len - 1] == '"'))
    {
        s.len--;
    }

    return s;
}


/* Compares without regard to case; lower is in lower case. */

static ngx_uint_t
ngx_http_clawd_accept_is(ngx_str_t *s, char *lower)
{
    size_t  i;

    for (i = 0; i < s->len; i++) {
        if (lower[i] == '\0' || ngx_tolower(s->data[i]) != (u_char) lower[i]) {
            return 0;
        }
    }

    return lower[i] == '\0';
}


/* A quality in thousandths; 0 for one that is not a number from 0 to 1. */

static ngx_uint_t
ngx_http_clawd_accept_q(ngx_str_t *s)
{
    size_t      i;
    ngx_uint_t  q, unit;

    if (s->len == 0 || s->len > sizeof("0.000") - 1
        || (s->data[0] != '0' && s->data[0] != '1')
        || (s->len > 1 && s->data[1] != '.'))
    {
        return 0;
    }

    unit = 1000;
    q = (s->data[0] - '0') * unit;

    for (i = 2; i < s->len; i++) {
        if (s->data[i] < '0' || s->data[i] > '9') {
            return 0;
        }

        unit /= 10;
        q += (s->data[i] - '0') * unit;
    }

    return ngx_min(q, 1000);
}


ngx_uint_t
ngx_http_clawd_text_label_valid(ngx_str_t *name)
{
    u_char      *p, *last;
    uint32_t     c, least;
    ngx_uint_t   n;

    last = name->data + name->len;

    for (p = name->data; p < last; /* void */ ) {
        c = *p++;

        if (c < 0x80) {
            if (c < 0x20 || c == 0x7f) {
                return 0;
            }

            continue;
        }

        if (c >= 0xc0 && c < 0xe0) {
            n = 1;
            least = 0x80;

        } else if (c >= 0xe0 && c < 0xf0) {
            n = 2;
            least = 0x800;

        } else if (c >= 0xf0 && c < 0xf8) {
            n = 3;
            least = 0x10000;

        } else {
            return 0;
        }

        if ((size_t) (last - p) < n) {
            return 0;
        }

        for (c &= 0x3f >> n; n; n--, p++) {
            if ((*p & 0xc0) != 0x80) {
                return 0;
            }

            c = c << 6 | (*p & 0x3f);
        }

        if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
            return 0;
        }
    }

    return name->len != 0;
}
