/*
 * Copyright (C) clawd authors
 *
 * A strict reader of exposition text, Prometheus 0.0.4 and OpenMetrics 1.0,
 * which fails the test at the first breach of the format:
 *
 *  - each family once, with HELP and TYPE before its samples, and only samples
 *    that its type may have;
 *  - names, labels, escapes and numbers as the format has them;
 *  - no series twice;
 *  - histograms with ascending bounds and counts, ended by +Inf, which equals
 *    the count, and with a sum.
 */

#ifndef _EXPOSITION_H_INCLUDED_
#define _EXPOSITION_H_INCLUDED_


#define EXPO_SAMPLES   20000
#define EXPO_FAMILIES  64
#define EXPO_LABELS    4


typedef struct {
    char      key[64];
    char      value[256];
} expo_label_t;


typedef struct {
    char           name[128];
    char           type[16];
} expo_family_t;


typedef struct {
    char           name[128];
    expo_label_t   labels[EXPO_LABELS];
    int            nlabels;
    char           value[64];

    int            exemplar;
    expo_label_t   exemplar_label;
    char           exemplar_value[64];
    char           exemplar_time[64];
} expo_sample_t;


typedef struct {
    int             openmetrics;
    int             nfamilies;
    expo_family_t   families[EXPO_FAMILIES];
    int             nsamples;
    expo_sample_t  *samples;

    const char     *text;
    const char     *p;
} expo_t;


#define expo_fail(e, ...)                                                     \
    do {                                                                      \
        print_error("at byte %d: ", (int) ((e)->p - (e)->text));              \
        print_error(__VA_ARGS__);                                             \
        print_error("\n%.200s\n", (e)->p);                                    \
        fail();                                                               \
    } while (0)


static void
expo_expect(expo_t *e, const char *s)
{
    if (strncmp(e->p, s, strlen(s)) != 0) {
        expo_fail(e, "\"%s\" is expected", s);
    }

    e->p += strlen(s);
}


/* a name of letters, digits, "_", and ":" where colon is set */

static void
expo_name(expo_t *e, char *dst, size_t size)
{
    size_t  n;

    n = strspn(e->p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                     "0123456789_");

    if (n == 0 || n >= size || (*e->p >= '0' && *e->p <= '9')) {
        expo_fail(e, "a name is expected");
    }

    memcpy(dst, e->p, n);
    dst[n] = '\0';
    e->p += n;
}


/* digits with at most one point inside; nothing here writes more than that */

static void
expo_number(expo_t *e, char *dst, size_t size)
{
    size_t       n, point;

    n = strspn(e->p, "0123456789.");
    point = strcspn(e->p, ".");

    if (n == 0 || n >= size || e->p[0] == '.' || e->p[n - 1] == '.'
        || (point < n && strcspn(e->p + point + 1, ".") < n - point - 1))
    {
        expo_fail(e, "a number is expected");
    }

    memcpy(dst, e->p, n);
    dst[n] = '\0';
    e->p += n;
}


static void
expo_label(expo_t *e, expo_label_t *label)
{
    size_t  n;

    expo_name(e, label->key, sizeof(label->key));
    expo_expect(e, "=\"");

    for (n = 0; *e->p != '"'; n++, e->p++) {

        if (n == sizeof(label->value) - 1 || *e->p == '\0' || *e->p == '\n') {
            expo_fail(e, "a label that does not end");
        }

        if (*e->p != '\\') {
            label->value[n] = *e->p;
            continue;
        }

        e->p++;

        switch (*e->p) {
        case '\\':
        case '"':
            label->value[n] = *e->p;
            break;
        case 'n':
            label->value[n] = '\n';
            break;
        default:
            expo_fail(e, "an unknown escape");
        }
    }

    label->value[n] = '\0';
    e->p++;
}


/* whether a sample of the family may have the name */

static int
expo_belongs(expo_t *e, expo_family_t *family, const char *name)
{
    int          i;
    size_t       n;
    const char  *suffix;

    static const char  *histogram[] = { "_bucket", "_sum", "_count" };

    n = strlen(family->name);

    if (strncmp(name, family->name, n) != 0) {
        return 0;
    }

    suffix = name + n;

    if (strcmp(family->type, "histogram") == 0) {
        for (i = 0; i < 3; i++) {
            if (strcmp(suffix, histogram[i]) == 0) {
                return 1;
            }
        }

        return 0;
    }

    if (strcmp(family->type, "counter") == 0 && e->openmetrics) {
        return strcmp(suffix, "_total") == 0;
    }

    return *suffix == '\0';
}


static void
expo_read_family(expo_t *e)
{
    int             i;
    size_t          n;
    expo_family_t  *family;

    assert_true(e->nfamilies < EXPO_FAMILIES);
    family = &e->families[e->nfamilies];

    expo_expect(e, "# HELP ");
    expo_name(e, family->name, sizeof(family->name));

    for (i = 0; i < e->nfamilies; i++) {
        if (strcmp(e->families[i].name, family->name) == 0) {
            expo_fail(e, "a family twice");
        }
    }

    expo_expect(e, " ");

    if (*e->p == '\n') {
        expo_fail(e, "no help");
    }

    n = strcspn(e->p, "\\\n");
    e->p += n;

    expo_expect(e, "\n# TYPE ");
    expo_expect(e, family->name);
    expo_expect(e, " ");
    expo_name(e, family->type, sizeof(family->type));
    expo_expect(e, "\n");

    if (strcmp(family->type, "counter") == 0) {
        n = strlen(family->name);
        i = (n > 6 && strcmp(family->name + n - 6, "_total") == 0);

        if (i == e->openmetrics) {
            expo_fail(e, "_total where it is not due, or not where it is");
        }

    } else if (strcmp(family->type, "gauge") != 0
               && strcmp(family->type, "histogram") != 0)
    {
        expo_fail(e, "an unknown type");
    }

    e->nfamilies++;
}


static void
expo_read_exemplar(expo_t *e, expo_sample_t *s)
{
    if (!e->openmetrics || strstr(s->name, "_bucket") == NULL) {
        expo_fail(e, "an exemplar out of place");
    }

    expo_expect(e, " # {");
    expo_label(e, &s->exemplar_label);
    expo_expect(e, "} ");
    expo_number(e, s->exemplar_value, sizeof(s->exemplar_value));
    expo_expect(e, " ");
    expo_number(e, s->exemplar_time, sizeof(s->exemplar_time));

    s->exemplar = 1;
}


static void
expo_read_sample(expo_t *e)
{
    expo_sample_t  *s;

    assert_true(e->nsamples < EXPO_SAMPLES);
    s = &e->samples[e->nsamples++];

    expo_name(e, s->name, sizeof(s->name));

    if (e->nfamilies == 0
        || !expo_belongs(e, &e->families[e->nfamilies - 1], s->name))
    {
        expo_fail(e, "a sample outside its family");
    }

    if (*e->p == '{') {
        do {
            e->p++;
            assert_true(s->nlabels < EXPO_LABELS);
            expo_label(e, &s->labels[s->nlabels++]);
        } while (*e->p == ',');

        expo_expect(e, "}");
    }

    expo_expect(e, " ");
    expo_number(e, s->value, sizeof(s->value));

    if (*e->p == ' ') {
        expo_read_exemplar(e, s);
    }

    expo_expect(e, "\n");
}


static int
expo_same_labels(expo_sample_t *a, expo_sample_t *b, int n)
{
    int  i;

    for (i = 0; i < n; i++) {
        if (strcmp(a->labels[i].key, b->labels[i].key) != 0
            || strcmp(a->labels[i].value, b->labels[i].value) != 0)
        {
            return 0;
        }
    }

    return 1;
}


static void
expo_check_unique(expo_t *e)
{
    int             i, k;
    expo_sample_t  *a, *b;

    for (i = 0; i < e->nsamples; i++) {
        a = &e->samples[i];

        for (k = i + 1; k < e->nsamples; k++) {
            b = &e->samples[k];

            if (a->nlabels == b->nlabels && strcmp(a->name, b->name) == 0
                && expo_same_labels(a, b, a->nlabels))
            {
                print_error("%s twice\n", a->name);
                fail();
            }
        }
    }
}


/* The samples of one histogram, from its first bucket on; returns their end. */

static int
expo_check_histogram(expo_t *e, int i)
{
    int             n;
    double          le, last;
    unsigned long   count;
    expo_sample_t  *s, *first;

    first = &e->samples[i];
    n = first->nlabels - 1;
    last = -1;
    count = 0;

    for ( ;; i++) {
        s = &e->samples[i];

        assert_true(i < e->nsamples);
        assert_string_equal(s->name, first->name);
        assert_int_equal(s->nlabels, n + 1);
        assert_true(expo_same_labels(s, first, n));
        assert_string_equal(s->labels[n].key, "le");

        assert_true(strtoul(s->value, NULL, 10) >= count);
        count = strtoul(s->value, NULL, 10);

        if (strcmp(s->labels[n].value, "+Inf") == 0) {
            break;
        }

        le = strtod(s->labels[n].value, NULL);
        assert_true(le > last);
        assert_non_null(strchr(s->labels[n].value, '.'));

        if (s->exemplar) {
            assert_true(strtod(s->exemplar_value, NULL) <= le);
            assert_true(strtod(s->exemplar_value, NULL) > last);
        }

        last = le;
    }

    assert_true(i + 2 < e->nsamples);
    assert_non_null(strstr(s[1].name, "_sum"));
    assert_non_null(strstr(s[2].name, "_count"));
    assert_string_equal(s[2].value, s->value);
    assert_true(expo_same_labels(&s[1], first, n) && s[1].nlabels == n);
    assert_true(expo_same_labels(&s[2], first, n) && s[2].nlabels == n);

    return i + 3;
}


/* Reads text, which ends with NUL.  To be freed with expo_free(). */

static expo_t *
expo_read(const char *text, int openmetrics)
{
    int      i;
    expo_t  *e;

    e = calloc(1, sizeof(expo_t));
    assert_non_null(e);
    e->samples = calloc(EXPO_SAMPLES, sizeof(expo_sample_t));
    assert_non_null(e->samples);

    e->openmetrics = openmetrics;
    e->text = text;
    e->p = text;

    while (*e->p && strcmp(e->p, "# EOF\n") != 0) {
        if (*e->p == '#') {
            expo_read_family(e);

        } else {
            expo_read_sample(e);
        }
    }

    if ((*e->p != '\0') != openmetrics) {
        expo_fail(e, "# EOF where it is not due, or not where it is");
    }

    expo_check_unique(e);

    for (i = 0; i < e->nsamples; /* void */ ) {
        if (strstr(e->samples[i].name, "_bucket")) {
            i = expo_check_histogram(e, i);

        } else {
            i++;
        }
    }

    return e;
}


static void
expo_free(expo_t *e)
{
    free(e->samples);
    free(e);
}


/*
 * The sample of a name whose labels are, in the order written, as in
 * "model=a,le=2.0"; NULL if there is none.
 */

static expo_sample_t *
expo_find(expo_t *e, const char *name, const char *labels)
{
    int             i, k;
    char            buf[1024];
    size_t          n;
    expo_sample_t  *s;

    for (i = 0; i < e->nsamples; i++) {
        s = &e->samples[i];

        if (strcmp(s->name, name) != 0) {
            continue;
        }

        buf[0] = '\0';

        for (n = 0, k = 0; k < s->nlabels; k++) {
            n += snprintf(buf + n, sizeof(buf) - n, "%s%s=%s", k ? "," : "",
                          s->labels[k].key, s->labels[k].value);
        }

        if (strcmp(buf, labels) == 0) {
            return s;
        }
    }

    return NULL;
}


/* Its value, as written; fails the test if there is no such sample. */

static const char *
expo_value(expo_t *e, const char *name, const char *labels)
{
    expo_sample_t  *s;

    s = expo_find(e, name, labels);

    if (s == NULL) {
        print_error("no %s{%s}\n", name, labels);
        fail();
    }

    return s ? s->value : "";
}


#endif /* _EXPOSITION_H_INCLUDED_ */
