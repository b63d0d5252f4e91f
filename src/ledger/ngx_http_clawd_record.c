/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_record.h"


#define NGX_HTTP_CLAWD_PATTERNS    64    /* of an allow-list, at most */

/* a time in milliseconds is no time in seconds: the year 9999 is the last */
#define NGX_HTTP_CLAWD_EXPIRES_MAX  253402300799LL

/* scripts count in doubles */
#define NGX_HTTP_CLAWD_EPOCH_MAX    999999999999999LL

#define NGX_HTTP_CLAWD_DIGITS       15

/* the first byte of a packed record; to be changed with its layout */
#define NGX_HTTP_CLAWD_PACKED       0xc1

/* the second byte */
#define NGX_HTTP_CLAWD_PACKED_FOUND     0x01
#define NGX_HTTP_CLAWD_PACKED_INVALID   0x02
#define NGX_HTTP_CLAWD_PACKED_DISABLED  0x04
#define NGX_HTTP_CLAWD_PACKED_ADMIN     0x08
#define NGX_HTTP_CLAWD_PACKED_MODELS    0x10


/* numbers of the texts in ngx_http_clawd_faults; 0: none */

typedef enum {
    NGX_HTTP_CLAWD_FAULT_NONE = 0,
    NGX_HTTP_CLAWD_FAULT_UNUSABLE,
    NGX_HTTP_CLAWD_FAULT_UNKNOWN,
    NGX_HTTP_CLAWD_FAULT_MISPLACED,
    NGX_HTTP_CLAWD_FAULT_TWICE,
    NGX_HTTP_CLAWD_FAULT_LIMIT,
    NGX_HTTP_CLAWD_FAULT_EXPIRES,
    NGX_HTTP_CLAWD_FAULT_EPOCH,
    NGX_HTTP_CLAWD_FAULT_PRIORITY,
    NGX_HTTP_CLAWD_FAULT_DISABLED,
    NGX_HTTP_CLAWD_FAULT_ROLE,
    NGX_HTTP_CLAWD_FAULT_NAME,
    NGX_HTTP_CLAWD_FAULT_LABEL,
    NGX_HTTP_CLAWD_FAULT_MODELS,
    NGX_HTTP_CLAWD_FAULT_TZ,
    NGX_HTTP_CLAWD_FAULT_NO_USER,
    NGX_HTTP_CLAWD_FAULTS
} ngx_http_clawd_fault_e;


typedef struct ngx_http_clawd_field_s  ngx_http_clawd_field_t;

struct ngx_http_clawd_field_s {
    ngx_str_t                name;
    ngx_uint_t               kinds;        /* bits of those that have it */
    ngx_http_clawd_fault_e (*take)(ngx_http_clawd_record_t *rec,
                                   ngx_http_clawd_field_t *field,
                                   ngx_str_t *value);
    size_t                   offset;       /* in the record */
};


static ngx_http_clawd_fault_e ngx_http_clawd_take(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_record_e kind,
    ngx_str_t *name, ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_limit(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_expires(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_epoch(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_priority(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_disabled(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_role(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_name(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_label(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_models(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_http_clawd_fault_e ngx_http_clawd_take_tz(
    ngx_http_clawd_record_t *rec, ngx_http_clawd_field_t *field,
    ngx_str_t *value);
static ngx_int_t ngx_http_clawd_fail(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_fault_e fault, ngx_str_t *field);
static ngx_int_t ngx_http_clawd_digits(ngx_str_t *value, int64_t max,
    int64_t *n);
static ngx_uint_t ngx_http_clawd_is(ngx_str_t *value, const char *word);
static u_char *ngx_http_clawd_rune(u_char *p, u_char *last, uint32_t *rune);
static ngx_int_t ngx_http_clawd_ranges(ngx_http_clawd_record_t *rec);
static u_char *ngx_http_clawd_pack_number(u_char *p, uint64_t n);
static u_char *ngx_http_clawd_pack_string(u_char *p, ngx_str_t *s);
static ngx_uint_t ngx_http_clawd_fault_number(ngx_str_t *fault);
static u_char *ngx_http_clawd_unpack_fields(ngx_http_clawd_record_t *rec,
    u_char *p, u_char *last, ngx_uint_t flags);
static u_char *ngx_http_clawd_unpack_fault(ngx_http_clawd_record_t *rec,
    u_char *p, u_char *last);
static u_char *ngx_http_clawd_unpack_number(u_char *p, u_char *last,
    int64_t *n);
static u_char *ngx_http_clawd_unpack_string(u_char *p, u_char *last,
    ngx_str_t *s);


#define KEY   (1 << NGX_HTTP_CLAWD_RECORD_KEY)
#define USER  (1 << NGX_HTTP_CLAWD_RECORD_USER)
#define PLAN  (1 << NGX_HTTP_CLAWD_RECORD_PLAN)

#define ngx_http_clawd_limit(name, i)                                         \
    { ngx_string(name), USER|PLAN, ngx_http_clawd_take_limit,                 \
      offsetof(ngx_http_clawd_record_t, limits) + i * sizeof(int64_t) }

#define ngx_http_clawd_field(name, kinds, take, member)                       \
    { ngx_string(name), kinds, ngx_http_clawd_take_##take,                    \
      offsetof(ngx_http_clawd_record_t, member) }


ngx_str_t  ngx_http_clawd_limit_names[NGX_HTTP_CLAWD_LIMITS] = {
    ngx_string("concurrency"),
    ngx_string("rpm"),
    ngx_string("tpm"),
    ngx_string("tokens_per_day"),
    ngx_string("tokens_per_month")
};


static ngx_http_clawd_field_t  ngx_http_clawd_fields[] = {
    ngx_http_clawd_limit("concurrency", NGX_HTTP_CLAWD_LIMIT_CONCURRENCY),
    ngx_http_clawd_limit("rpm", NGX_HTTP_CLAWD_LIMIT_RPM),
    ngx_http_clawd_limit("tpm", NGX_HTTP_CLAWD_LIMIT_TPM),
    ngx_http_clawd_limit("tokens_per_day", NGX_HTTP_CLAWD_LIMIT_DAY),
    ngx_http_clawd_limit("tokens_per_month", NGX_HTTP_CLAWD_LIMIT_MONTH),
    ngx_http_clawd_field("user", KEY, name, user),
    ngx_http_clawd_field("plan", USER, name, plan),
    ngx_http_clawd_field("name", KEY|USER|PLAN, label, name),
    ngx_http_clawd_field("models", KEY|USER|PLAN, models, models),
    ngx_http_clawd_field("tz", USER|PLAN, tz, tz),
    ngx_http_clawd_field("expires", KEY, expires, expires),
    ngx_http_clawd_field("epoch", USER, epoch, epoch),
    ngx_http_clawd_field("priority", USER|PLAN, priority, priority),
    { ngx_string("disabled"), KEY|USER, ngx_http_clawd_take_disabled, 0 },
    { ngx_string("role"), USER, ngx_http_clawd_take_role, 0 }
};

#define NGX_HTTP_CLAWD_FIELDS                                                 \
    (sizeof(ngx_http_clawd_fields) / sizeof(ngx_http_clawd_fields[0]))


static ngx_str_t  ngx_http_clawd_faults[NGX_HTTP_CLAWD_FAULTS] = {
    ngx_null_string,
    ngx_string("the record can't be used"),
    ngx_string("unknown field"),
    ngx_string("a record of this kind has no such field"),
    ngx_string("the field is there twice"),
    ngx_string("a limit must be digits, 1000000000000 at most, or "
               "\"unlimited\""),
    ngx_string("a time must be whole seconds since 1970, or 0 for never"),
    ngx_string("an epoch must be digits, 15 at most"),
    ngx_string("a priority must be 0 to 100"),
    ngx_string("the value must be one of 0 1 no yes false true off on"),
    ngx_string("a role must be \"user\" or \"admin\""),
    ngx_string("a name must be 1 to 64 of A-Z a-z 0-9 . _ @ + -"),
    ngx_string("a label must be 1 to 128 bytes of printable UTF-8 without "
               "spaces around it"),
    ngx_string("models must be at most 64 patterns of printable ASCII, in "
               "1024 bytes, without spaces around them"),
    ngx_string("a zone must be UTC, +HH:MM, -HH:MM, or a name like "
               "Europe/Berlin"),
    ngx_string("a key must have a user")
};


void
ngx_http_clawd_record_init(ngx_http_clawd_record_t *rec)
{
    ngx_uint_t  i;

    ngx_memzero(rec, sizeof(ngx_http_clawd_record_t));

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        rec->limits[i] = NGX_HTTP_CLAWD_UNSET;
    }

    rec->priority = NGX_HTTP_CLAWD_UNSET;
}


ngx_int_t
ngx_http_clawd_record_field(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_record_e kind, ngx_str_t *name, ngx_str_t *value)
{
    ngx_http_clawd_fault_e  fault;

    rec->found = 1;

    fault = ngx_http_clawd_take(rec, kind, name, value);

    if (fault != NGX_HTTP_CLAWD_FAULT_NONE) {
        return ngx_http_clawd_fail(rec, fault, name);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_clawd_record_end(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_record_e kind)
{
    static ngx_str_t  user = ngx_string("user");

    if (rec->found && kind == NGX_HTTP_CLAWD_RECORD_KEY && rec->user.len == 0) {
        return ngx_http_clawd_fail(rec, NGX_HTTP_CLAWD_FAULT_NO_USER, &user);
    }

    return rec->invalid ? NGX_ERROR : NGX_OK;
}


ngx_int_t
ngx_http_clawd_name_valid(ngx_str_t *name)
{
    u_char  c;
    size_t  i;

    if (name->len == 0 || name->len > NGX_HTTP_CLAWD_NAME_LEN) {
        return NGX_ERROR;
    }

    for (i = 0; i < name->len; i++) {
        c = name->data[i];

        if ((c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
            && (c < '0' || c > '9')
            && c != '.' && c != '_' && c != '@' && c != '+' && c != '-')
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_record_e kind, ngx_str_t *name, ngx_str_t *value)
{
    ngx_uint_t               i;
    ngx_http_clawd_field_t  *field;

    for (i = 0; i < NGX_HTTP_CLAWD_FIELDS; i++) {
        field = &ngx_http_clawd_fields[i];

        if (field->name.len != name->len
            || ngx_memcmp(field->name.data, name->data, name->len) != 0)
        {
            continue;
        }

        if (!(field->kinds & (1 << kind))) {
            return NGX_HTTP_CLAWD_FAULT_MISPLACED;
        }

        if (rec->seen & (1 << i)) {
            return NGX_HTTP_CLAWD_FAULT_TWICE;
        }

        rec->seen |= 1 << i;

        return field->take(rec, field, value);
    }

    return NGX_HTTP_CLAWD_FAULT_UNKNOWN;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_limit(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    int64_t  *n;

    n = (int64_t *) ((u_char *) rec + field->offset);

    if (ngx_http_clawd_is(value, "unlimited")) {
        *n = NGX_HTTP_CLAWD_UNLIMITED;
        return NGX_HTTP_CLAWD_FAULT_NONE;
    }

    if (ngx_http_clawd_digits(value, NGX_HTTP_CLAWD_LIMIT_MAX, n) != NGX_OK) {
        return NGX_HTTP_CLAWD_FAULT_LIMIT;
    }

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_expires(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    if (ngx_http_clawd_digits(value, NGX_HTTP_CLAWD_EXPIRES_MAX,
                              &rec->expires)
        != NGX_OK)
    {
        return NGX_HTTP_CLAWD_FAULT_EXPIRES;
    }

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_epoch(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    if (ngx_http_clawd_digits(value, NGX_HTTP_CLAWD_EPOCH_MAX, &rec->epoch)
        != NGX_OK)
    {
        return NGX_HTTP_CLAWD_FAULT_EPOCH;
    }

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_priority(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    if (ngx_http_clawd_digits(value, 100, &rec->priority) != NGX_OK) {
        return NGX_HTTP_CLAWD_FAULT_PRIORITY;
    }

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_disabled(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    if (ngx_http_clawd_is(value, "1") || ngx_http_clawd_is(value, "yes")
        || ngx_http_clawd_is(value, "true") || ngx_http_clawd_is(value, "on"))
    {
        rec->disabled = 1;
        return NGX_HTTP_CLAWD_FAULT_NONE;
    }

    if (ngx_http_clawd_is(value, "0") || ngx_http_clawd_is(value, "no")
        || ngx_http_clawd_is(value, "false")
        || ngx_http_clawd_is(value, "off"))
    {
        return NGX_HTTP_CLAWD_FAULT_NONE;
    }

    return NGX_HTTP_CLAWD_FAULT_DISABLED;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_role(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    if (ngx_http_clawd_is(value, "admin")) {
        rec->admin = 1;
        return NGX_HTTP_CLAWD_FAULT_NONE;
    }

    if (ngx_http_clawd_is(value, "user")) {
        return NGX_HTTP_CLAWD_FAULT_NONE;
    }

    return NGX_HTTP_CLAWD_FAULT_ROLE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_name(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    if (ngx_http_clawd_name_valid(value) != NGX_OK) {
        return NGX_HTTP_CLAWD_FAULT_NAME;
    }

    *(ngx_str_t *) ((u_char *) rec + field->offset) = *value;

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_label(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    u_char    *p, *last;
    uint32_t   rune;

    if (value->len == 0 || value->len > NGX_HTTP_CLAWD_LABEL_MAX) {
        return NGX_HTTP_CLAWD_FAULT_LABEL;
    }

    last = value->data + value->len;

    if (value->data[0] == ' ' || last[-1] == ' ') {
        return NGX_HTTP_CLAWD_FAULT_LABEL;
    }

    for (p = value->data; p < last; /* void */ ) {
        p = ngx_http_clawd_rune(p, last, &rune);

        /* controls of both sets, and what breaks lines beside them */

        if (p == NULL || rune < 0x20 || (rune >= 0x7f && rune < 0xa0)
            || rune == 0x2028 || rune == 0x2029)
        {
            return NGX_HTTP_CLAWD_FAULT_LABEL;
        }
    }

    rec->name = *value;

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_models(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    u_char      c;
    size_t      i;
    ngx_uint_t  n, inside;

    static u_char  none[1];

    /* a list that is empty is none that is missing, whatever its pointer */

    if (value->len == 0) {
        rec->models.data = none;
        return NGX_HTTP_CLAWD_FAULT_NONE;
    }

    if (value->len > NGX_HTTP_CLAWD_MODELS_LEN
        || value->data[0] == ' ' || value->data[value->len - 1] == ' ')
    {
        return NGX_HTTP_CLAWD_FAULT_MODELS;
    }

    n = 0;
    inside = 0;

    for (i = 0; i < value->len; i++) {
        c = value->data[i];

        if (c == ' ' || c == ',') {
            inside = 0;
            continue;
        }

        if (c < 0x20 || c > 0x7e) {
            return NGX_HTTP_CLAWD_FAULT_MODELS;
        }

        n += !inside;
        inside = 1;
    }

    if (n > NGX_HTTP_CLAWD_PATTERNS) {
        return NGX_HTTP_CLAWD_FAULT_MODELS;
    }

    rec->models = *value;

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


static ngx_http_clawd_fault_e
ngx_http_clawd_take_tz(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_field_t *field, ngx_str_t *value)
{
    int32_t  offset;

    if (value->len == 0
        || ngx_http_clawd_tz_form(value, &offset) == NGX_ERROR)
    {
        return NGX_HTTP_CLAWD_FAULT_TZ;
    }

    rec->tz = *value;

    return NGX_HTTP_CLAWD_FAULT_NONE;
}


/* The first fault stays: what follows may come of it. */

static ngx_int_t
ngx_http_clawd_fail(ngx_http_clawd_record_t *rec,
    ngx_http_clawd_fault_e fault, ngx_str_t *field)
{
    if (!rec->invalid) {
        rec->invalid = 1;
        rec->fault = ngx_http_clawd_faults[fault];
        rec->field.data = field->data;
        rec->field.len = ngx_min(field->len, NGX_HTTP_CLAWD_NAME_LEN);
    }

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_clawd_digits(ngx_str_t *value, int64_t max, int64_t *n)
{
    size_t   i;
    int64_t  sum;

    if (value->len == 0 || value->len > NGX_HTTP_CLAWD_DIGITS) {
        return NGX_ERROR;
    }

    sum = 0;

    for (i = 0; i < value->len; i++) {

        if (value->data[i] < '0' || value->data[i] > '9') {
            return NGX_ERROR;
        }

        sum = sum * 10 + (value->data[i] - '0');
    }

    if (sum > max) {
        return NGX_ERROR;
    }

    *n = sum;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_clawd_is(ngx_str_t *value, const char *word)
{
    size_t  len;

    len = ngx_strlen(word);

    return value->len == len && ngx_memcmp(value->data, word, len) == 0;
}


/* One character of UTF-8, in its shortest form; NULL if it is none. */

static u_char *
ngx_http_clawd_rune(u_char *p, u_char *last, uint32_t *rune)
{
    uint32_t    c, least;
    ngx_uint_t  n;

    c = *p++;

    if (c < 0x80) {
        *rune = c;
        return p;
    }

    if (c < 0xc2 || c > 0xf4) {
        return NULL;
    }

    n = 1 + (c >= 0xe0) + (c >= 0xf0);
    least = (n == 1) ? 0x80 : (n == 2) ? 0x800 : 0x10000;

    if ((size_t) (last - p) < n) {
        return NULL;
    }

    for (c &= 0x3f >> n; n; n--, p++) {

        if ((*p & 0xc0) != 0x80) {
            return NULL;
        }

        c = c << 6 | (*p & 0x3f);
    }

    if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        return NULL;
    }

    *rune = c;

    return p;
}


/*
 * Packed: a mark, flags; then, if it is invalid, the number of the fault and
 * the field, else numbers and strings.  Numbers have seven bits a byte, the
 * lowest first; a string has its length before it.
 */

u_char *
ngx_http_clawd_record_pack(ngx_http_clawd_record_t *rec, u_char *dst)
{
    u_char      *p;
    ngx_str_t    field;
    ngx_uint_t   i, fault;

    fault = NGX_HTTP_CLAWD_FAULT_NONE;
    field = rec->field;

    if (rec->invalid) {
        fault = ngx_http_clawd_fault_number(&rec->fault);
        field.len = ngx_min(field.len, NGX_HTTP_CLAWD_NAME_LEN);

    } else if (ngx_http_clawd_ranges(rec) != NGX_OK) {
        fault = NGX_HTTP_CLAWD_FAULT_UNUSABLE;
        field.len = 0;
    }

    p = dst;

    *p++ = NGX_HTTP_CLAWD_PACKED;
    *p++ = (u_char) ((rec->found ? NGX_HTTP_CLAWD_PACKED_FOUND : 0)
                     | (fault ? NGX_HTTP_CLAWD_PACKED_INVALID : 0)
                     | (rec->disabled ? NGX_HTTP_CLAWD_PACKED_DISABLED : 0)
                     | (rec->admin ? NGX_HTTP_CLAWD_PACKED_ADMIN : 0)
                     | (rec->models.data ? NGX_HTTP_CLAWD_PACKED_MODELS : 0));

    if (fault) {
        *p++ = (u_char) fault;
        return ngx_http_clawd_pack_string(p, &field);
    }

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        p = ngx_http_clawd_pack_number(p, rec->limits[i]
                                          - NGX_HTTP_CLAWD_UNSET);
    }

    p = ngx_http_clawd_pack_number(p, rec->expires);
    p = ngx_http_clawd_pack_number(p, rec->epoch);
    p = ngx_http_clawd_pack_number(p, rec->priority - NGX_HTTP_CLAWD_UNSET);

    p = ngx_http_clawd_pack_string(p, &rec->user);
    p = ngx_http_clawd_pack_string(p, &rec->plan);
    p = ngx_http_clawd_pack_string(p, &rec->models);
    p = ngx_http_clawd_pack_string(p, &rec->tz);

    return ngx_http_clawd_pack_string(p, &rec->name);
}


ngx_int_t
ngx_http_clawd_record_unpack(ngx_http_clawd_record_t *rec, u_char *src,
    size_t len)
{
    u_char      *p, *last;
    ngx_uint_t   flags;

    ngx_http_clawd_record_init(rec);

    if (len < 2 || src[0] != NGX_HTTP_CLAWD_PACKED) {
        return NGX_ERROR;
    }

    flags = src[1];
    p = src + 2;
    last = src + len;

    if (flags & NGX_HTTP_CLAWD_PACKED_INVALID) {
        p = ngx_http_clawd_unpack_fault(rec, p, last);

    } else {
        p = ngx_http_clawd_unpack_fields(rec, p, last, flags);
    }

    rec->found = (flags & NGX_HTTP_CLAWD_PACKED_FOUND) != 0;
    rec->disabled = (flags & NGX_HTTP_CLAWD_PACKED_DISABLED) != 0;
    rec->admin = (flags & NGX_HTTP_CLAWD_PACKED_ADMIN) != 0;

    if (p != last || ngx_http_clawd_ranges(rec) != NGX_OK) {
        ngx_http_clawd_record_init(rec);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* No record that was read has anything else: pack() relies on the lengths. */

static ngx_int_t
ngx_http_clawd_ranges(ngx_http_clawd_record_t *rec)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        if (rec->limits[i] < NGX_HTTP_CLAWD_UNSET
            || rec->limits[i] > NGX_HTTP_CLAWD_LIMIT_MAX)
        {
            return NGX_ERROR;
        }
    }

    if (rec->expires < 0 || rec->expires > NGX_HTTP_CLAWD_EXPIRES_MAX
        || rec->epoch < 0 || rec->epoch > NGX_HTTP_CLAWD_EPOCH_MAX
        || rec->priority > 100
        || (rec->priority < 0 && rec->priority != NGX_HTTP_CLAWD_UNSET)
        || rec->user.len > NGX_HTTP_CLAWD_NAME_LEN
        || rec->plan.len > NGX_HTTP_CLAWD_NAME_LEN
        || rec->models.len > NGX_HTTP_CLAWD_MODELS_LEN
        || rec->tz.len > NGX_HTTP_CLAWD_TZ_LEN
        || rec->name.len > NGX_HTTP_CLAWD_LABEL_MAX)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_clawd_fault_number(ngx_str_t *fault)
{
    ngx_uint_t  i;

    for (i = NGX_HTTP_CLAWD_FAULT_UNUSABLE; i < NGX_HTTP_CLAWD_FAULTS; i++) {
        if (ngx_http_clawd_faults[i].data == fault->data) {
            return i;
        }
    }

    return NGX_HTTP_CLAWD_FAULT_UNUSABLE;
}


static u_char *
ngx_http_clawd_pack_number(u_char *p, uint64_t n)
{
    while (n > 0x7f) {
        *p++ = (u_char) (n | 0x80);
        n >>= 7;
    }

    *p++ = (u_char) n;

    return p;
}


static u_char *
ngx_http_clawd_pack_string(u_char *p, ngx_str_t *s)
{
    p = ngx_http_clawd_pack_number(p, s->len);

    if (s->len) {
        p = ngx_cpymem(p, s->data, s->len);
    }

    return p;
}


static u_char *
ngx_http_clawd_unpack_fields(ngx_http_clawd_record_t *rec, u_char *p,
    u_char *last, ngx_uint_t flags)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        p = ngx_http_clawd_unpack_number(p, last, &rec->limits[i]);
        rec->limits[i] += NGX_HTTP_CLAWD_UNSET;
    }

    p = ngx_http_clawd_unpack_number(p, last, &rec->expires);
    p = ngx_http_clawd_unpack_number(p, last, &rec->epoch);
    p = ngx_http_clawd_unpack_number(p, last, &rec->priority);
    rec->priority += NGX_HTTP_CLAWD_UNSET;

    p = ngx_http_clawd_unpack_string(p, last, &rec->user);
    p = ngx_http_clawd_unpack_string(p, last, &rec->plan);
    p = ngx_http_clawd_unpack_string(p, last, &rec->models);
    p = ngx_http_clawd_unpack_string(p, last, &rec->tz);
    p = ngx_http_clawd_unpack_string(p, last, &rec->name);

    if (!(flags & NGX_HTTP_CLAWD_PACKED_MODELS)) {

        if (rec->models.len) {
            return NULL;
        }

        rec->models.data = NULL;
    }

    return p;
}


static u_char *
ngx_http_clawd_unpack_fault(ngx_http_clawd_record_t *rec, u_char *p,
    u_char *last)
{
    if (p == last || *p == NGX_HTTP_CLAWD_FAULT_NONE
        || *p >= NGX_HTTP_CLAWD_FAULTS)
    {
        return NULL;
    }

    rec->invalid = 1;
    rec->fault = ngx_http_clawd_faults[*p++];

    p = ngx_http_clawd_unpack_string(p, last, &rec->field);

    return (rec->field.len > NGX_HTTP_CLAWD_NAME_LEN) ? NULL : p;
}


/* Both return the end, or NULL, also for a NULL given. */

static u_char *
ngx_http_clawd_unpack_number(u_char *p, u_char *last, int64_t *n)
{
    uint64_t    sum;
    ngx_uint_t  shift;

    *n = 0;
    sum = 0;

    for (shift = 0; p && shift < 56; shift += 7) {

        if (p == last) {
            return NULL;
        }

        sum |= (uint64_t) (*p & 0x7f) << shift;

        if (*p++ < 0x80) {
            *n = (int64_t) sum;
            return p;
        }
    }

    return NULL;
}


static u_char *
ngx_http_clawd_unpack_string(u_char *p, u_char *last, ngx_str_t *s)
{
    int64_t  len;

    p = ngx_http_clawd_unpack_number(p, last, &len);

    if (p == NULL || len > last - p) {
        return NULL;
    }

    s->data = p;
    s->len = (size_t) len;

    return p + len;
}
