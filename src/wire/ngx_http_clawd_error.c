/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_error.h"
#include "ngx_http_clawd_number.h"


/* a text of an upstream that is not JSON: longer ones are not for callers */
#define NGX_HTTP_CLAWD_ERROR_TEXT   200

/* names, braces, types and codes around the texts of any form */
#define NGX_HTTP_CLAWD_ERROR_FRAME  512


/* what an upstream's error body says; texts are the insides of strings */

typedef struct {
    ngx_str_t   object;       /* error.message */
    ngx_str_t   string;       /* error */
    ngx_str_t   message;      /* message or detail, where "error" is not */
    unsigned    typed:1;      /* error.type is a string */
    unsigned    anthropic:1;  /* type is "error" */
    unsigned    context:1;    /* error.type is exceed_context_size_error */
    unsigned    foreign:1;    /* StatusCode or signin_url */
    unsigned    twice:1;      /* a key came again: readers will differ */
} ngx_http_clawd_error_shape_t;


typedef enum {
    NGX_HTTP_CLAWD_ERROR_ROOT = 0,
    NGX_HTTP_CLAWD_ERROR_ERROR,
    NGX_HTTP_CLAWD_ERROR_ERROR_MESSAGE,
    NGX_HTTP_CLAWD_ERROR_ERROR_TYPE,
    NGX_HTTP_CLAWD_ERROR_ERROR_SIGNIN,
    NGX_HTTP_CLAWD_ERROR_TYPE,
    NGX_HTTP_CLAWD_ERROR_MESSAGE,
    NGX_HTTP_CLAWD_ERROR_DETAIL,
    NGX_HTTP_CLAWD_ERROR_STATUS,
    NGX_HTTP_CLAWD_ERROR_SIGNIN,
    NGX_HTTP_CLAWD_ERROR_NODES
} ngx_http_clawd_error_node_e;


static const ngx_http_clawd_json_node_t  ngx_http_clawd_error_nodes[] = {
    { ngx_null_string, 0, 0 },
    { ngx_string("error"), NGX_HTTP_CLAWD_ERROR_ROOT, 0 },
    { ngx_string("message"), NGX_HTTP_CLAWD_ERROR_ERROR, 0 },
    { ngx_string("type"), NGX_HTTP_CLAWD_ERROR_ERROR,
      NGX_HTTP_CLAWD_JSON_CAPTURE },
    { ngx_string("signin_url"), NGX_HTTP_CLAWD_ERROR_ERROR, 0 },
    { ngx_string("type"), NGX_HTTP_CLAWD_ERROR_ROOT,
      NGX_HTTP_CLAWD_JSON_CAPTURE },
    { ngx_string("message"), NGX_HTTP_CLAWD_ERROR_ROOT, 0 },
    { ngx_string("detail"), NGX_HTTP_CLAWD_ERROR_ROOT, 0 },
    { ngx_string("StatusCode"), NGX_HTTP_CLAWD_ERROR_ROOT, 0 },
    { ngx_string("signin_url"), NGX_HTTP_CLAWD_ERROR_ROOT, 0 }
};

static ngx_http_clawd_json_table_t  ngx_http_clawd_error_table =
    ngx_http_clawd_json_table(ngx_http_clawd_error_nodes);


#define ngx_http_clawd_error_entry(status, type, code, anthropic, message,    \
    reason)                                                                   \
    { status, ngx_string(type), ngx_string(code), ngx_string(anthropic),      \
      ngx_string(message), ngx_string(reason) }


/* in the order of ngx_http_clawd_error_e */

static const ngx_http_clawd_error_def_t  ngx_http_clawd_error_defs[] = {

    ngx_http_clawd_error_entry(500, "server_error", "", "api_error",
        "the request failed", ""),

    ngx_http_clawd_error_entry(401, "invalid_request_error",
        "invalid_api_key", "authentication_error",
        "gateway token missing", "no_token"),

    ngx_http_clawd_error_entry(401, "invalid_request_error",
        "invalid_api_key", "authentication_error",
        "gateway token invalid", "bad_token"),

    ngx_http_clawd_error_entry(401, "invalid_request_error",
        "invalid_api_key", "authentication_error",
        "gateway token invalid", "expired_token"),

    ngx_http_clawd_error_entry(401, "invalid_request_error",
        "invalid_api_key", "authentication_error",
        "gateway token invalid", "disabled_token"),

    ngx_http_clawd_error_entry(401, "invalid_request_error",
        "invalid_api_key", "authentication_error",
        "gateway token invalid", "invalid_record"),

    ngx_http_clawd_error_entry(503, "server_error",
        "auth_unavailable", "api_error",
        "accounts can't be looked up at the moment, try again soon",
        "ledger_unavailable"),

    ngx_http_clawd_error_entry(429, "rate_limit_error",
        "rate_limit_exceeded", "rate_limit_error",
        "too many concurrent requests", "concurrency"),

    ngx_http_clawd_error_entry(429, "rate_limit_error",
        "rate_limit_exceeded", "rate_limit_error",
        "too many requests per minute", "rpm"),

    ngx_http_clawd_error_entry(429, "rate_limit_error",
        "rate_limit_exceeded", "rate_limit_error",
        "too many tokens per minute", "tpm"),

    ngx_http_clawd_error_entry(429, "insufficient_quota",
        "insufficient_quota", "rate_limit_error",
        "the daily tokens are used up", "tokens_per_day"),

    ngx_http_clawd_error_entry(429, "insufficient_quota",
        "insufficient_quota", "rate_limit_error",
        "the monthly tokens are used up", "tokens_per_month"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "request_exceeds_quota", "invalid_request_error",
        "this request needs more tokens than its limits ever allow",
        "exceeds_limit"),

    ngx_http_clawd_error_entry(403, "permission_error",
        "origin_not_allowed", "permission_error",
        "this origin is not allowed", "origin"),

    ngx_http_clawd_error_entry(403, "permission_error",
        "endpoint_not_allowed", "permission_error",
        "this endpoint is not allowed for this token", "endpoint"),

    ngx_http_clawd_error_entry(404, "not_found_error",
        "endpoint_not_found", "not_found_error",
        "there is no such endpoint", "not_found"),

    ngx_http_clawd_error_entry(405, "invalid_request_error",
        "method_not_allowed", "invalid_request_error",
        "this endpoint does not take this method", "method"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_path", "invalid_request_error",
        "the path has characters that are not allowed", "path"),

    ngx_http_clawd_error_entry(415, "invalid_request_error",
        "unsupported_encoding", "invalid_request_error",
        "an encoded request body is not supported", "encoding"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_json", "invalid_request_error",
        "the request body is empty", "empty_body"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_request", "invalid_request_error",
        "a request of this kind has no body", "body"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_json", "invalid_request_error",
        "the request body is not a JSON object", "invalid_json"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_json", "invalid_request_error",
        "the request body goes on after its JSON object", "trailing_data"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_json", "invalid_request_error",
        "the request body is nested too deep", "depth"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_json", "invalid_request_error",
        "a key comes twice or in an ambiguous spelling", "duplicate_key"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_type", "invalid_request_error",
        "a parameter has the wrong type", "type"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "invalid_json", "invalid_request_error",
        "the model is missing or its name is not valid", "model"),

    ngx_http_clawd_error_entry(403, "permission_error",
        "model_not_allowed", "permission_error",
        "this model is not allowed", "model_denied"),

    ngx_http_clawd_error_entry(403, "permission_error",
        "parameter_not_allowed", "permission_error",
        "a parameter is not allowed for this token", "param_denied"),

    ngx_http_clawd_error_entry(413, "invalid_request_error",
        "request_too_large", "request_too_large",
        "the request body is too large", "too_large"),

    ngx_http_clawd_error_entry(408, "invalid_request_error",
        "request_timeout", "invalid_request_error",
        "the request body did not arrive in time", "body_timeout"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "incomplete_body", "invalid_request_error",
        "the request body could not be read to its end", "partial_body"),

    ngx_http_clawd_error_entry(400, "invalid_request_error",
        "client_abort", "invalid_request_error",
        "the client closed the connection", "client_abort"),

    ngx_http_clawd_error_entry(500, "server_error",
        "internal_error", "api_error",
        "the gateway failed", "internal"),

    ngx_http_clawd_error_entry(502, "server_error",
        "upstream_unavailable", "api_error",
        "the model server is not available", "unavailable"),

    ngx_http_clawd_error_entry(502, "server_error",
        "upstream_invalid", "api_error",
        "the model server sent an answer that cannot be relayed", "invalid"),

    ngx_http_clawd_error_entry(502, "server_error",
        "upstream_misconfigured", "api_error",
        "the model server refuses this gateway", "misconfigured"),

    ngx_http_clawd_error_entry(502, "server_error",
        "upstream_unauthorized", "api_error",
        "the model server wants credentials of its own", "upstream_auth"),

    ngx_http_clawd_error_entry(504, "server_error",
        "upstream_timeout", "api_error",
        "the model server did not answer in time", "timeout"),

    ngx_http_clawd_error_entry(502, "server_error",
        "upstream_error", "api_error",
        "the generation ended before it was complete", "incomplete")
};


_Static_assert(sizeof(ngx_http_clawd_error_defs)
               == NGX_HTTP_CLAWD_ERR_MAX * sizeof(ngx_http_clawd_error_def_t),
               "every error has its wording");

_Static_assert(sizeof(ngx_http_clawd_error_nodes)
               == NGX_HTTP_CLAWD_ERROR_NODES
                  * sizeof(ngx_http_clawd_json_node_t),
               "every node has its key");


/* for statuses without an id; the last two stand for their classes */

static const ngx_http_clawd_error_def_t  ngx_http_clawd_error_statuses[] = {

    ngx_http_clawd_error_entry(401, "authentication_error", "",
        "authentication_error", "the request is not authorized", ""),

    ngx_http_clawd_error_entry(403, "permission_error", "",
        "permission_error", "the request is not allowed", ""),

    ngx_http_clawd_error_entry(404, "not_found_error", "",
        "not_found_error", "not found", ""),

    ngx_http_clawd_error_entry(413, "invalid_request_error", "",
        "request_too_large", "the request is too large", ""),

    ngx_http_clawd_error_entry(429, "rate_limit_error", "",
        "rate_limit_error", "too many requests", ""),

    ngx_http_clawd_error_entry(503, "server_error", "",
        "overloaded_error", "the service is not available", ""),

    ngx_http_clawd_error_entry(529, "server_error", "",
        "overloaded_error", "the service is overloaded", ""),

    ngx_http_clawd_error_entry(400, "invalid_request_error", "",
        "invalid_request_error", "the request is not valid", ""),

    ngx_http_clawd_error_entry(500, "server_error", "",
        "api_error", "the request failed", "")
};


static const ngx_http_clawd_error_def_t *ngx_http_clawd_error_wording(
    ngx_http_clawd_error_t *e);
static u_char *ngx_http_clawd_error_literal(u_char *p, const char *text);
static u_char *ngx_http_clawd_error_escape(u_char *p, const ngx_str_t *s);
static u_char *ngx_http_clawd_error_string(u_char *p, const ngx_str_t *s);
static u_char *ngx_http_clawd_error_message(u_char *p,
    const ngx_http_clawd_error_def_t *def, ngx_http_clawd_error_t *e);
static u_char *ngx_http_clawd_error_openai(u_char *p,
    const ngx_http_clawd_error_def_t *def, ngx_http_clawd_error_t *e);
static u_char *ngx_http_clawd_error_anthropic(u_char *p,
    const ngx_http_clawd_error_def_t *def, ngx_http_clawd_error_t *e);
static u_char *ngx_http_clawd_error_responses(u_char *p,
    const ngx_http_clawd_error_def_t *def, ngx_http_clawd_error_t *e);
static ngx_uint_t ngx_http_clawd_error_shaped(
    ngx_http_clawd_error_shape_t *shape, ngx_http_clawd_family_e family);
static ngx_int_t ngx_http_clawd_error_scan(ngx_http_clawd_error_shape_t *shape,
    u_char *body, size_t len);
static void ngx_http_clawd_error_value(ngx_http_clawd_error_shape_t *shape,
    ngx_http_clawd_json_t *js, u_char *body);
static ngx_str_t *ngx_http_clawd_error_pick(
    ngx_http_clawd_error_shape_t *shape);
static ngx_uint_t ngx_http_clawd_error_is(ngx_str_t *s, const char *text);
static ngx_uint_t ngx_http_clawd_error_nested(ngx_http_clawd_error_t *e,
    ngx_http_clawd_error_shape_t *shape);
static void ngx_http_clawd_error_text(ngx_http_clawd_error_t *e, u_char *p,
    u_char *last, u_char *scratch);
static ngx_uint_t ngx_http_clawd_error_space(u_char ch);


const ngx_http_clawd_error_def_t *
ngx_http_clawd_error_def(ngx_http_clawd_error_e id)
{
    return &ngx_http_clawd_error_defs[id];
}


ngx_http_clawd_error_e
ngx_http_clawd_error_of_status(ngx_uint_t status)
{
    switch (status) {

    case 404:
        return NGX_HTTP_CLAWD_ERR_NOT_FOUND;

    case 405:
        return NGX_HTTP_CLAWD_ERR_METHOD;

    case 408:
        return NGX_HTTP_CLAWD_ERR_BODY_TIMEOUT;

    case 413:
        return NGX_HTTP_CLAWD_ERR_TOO_LARGE;

    case 500:
        return NGX_HTTP_CLAWD_ERR_INTERNAL;

    case 502:
        return NGX_HTTP_CLAWD_ERR_UNAVAILABLE;

    case 504:
        return NGX_HTTP_CLAWD_ERR_TIMEOUT;

    default:
        return NGX_HTTP_CLAWD_ERR_NONE;
    }
}


static const ngx_http_clawd_error_def_t *
ngx_http_clawd_error_wording(ngx_http_clawd_error_t *e)
{
    ngx_uint_t                         i, n;
    const ngx_http_clawd_error_def_t  *def;

    if (e->id != NGX_HTTP_CLAWD_ERR_NONE) {
        return &ngx_http_clawd_error_defs[e->id];
    }

    def = ngx_http_clawd_error_statuses;
    n = sizeof(ngx_http_clawd_error_statuses) / sizeof(def[0]) - 2;

    for (i = 0; i < n; i++) {
        if (def[i].status == e->status) {
            return &def[i];
        }
    }

    return (e->status >= 400 && e->status < 500) ? &def[n] : &def[n + 1];
}


size_t
ngx_http_clawd_error_size(ngx_http_clawd_error_t *e)
{
    size_t  len;

    /* a form has each text at most twice; a byte becomes at most six */

    len = 2 * (e->message.len + e->param.len + e->code.len)
          + e->request_id.len;

    if (e->message.len == 0) {
        len += 2 * (ngx_http_clawd_error_wording(e)->message.len
                    + e->param.len);
    }

    return NGX_HTTP_CLAWD_ERROR_FRAME + 6 * len;
}


u_char *
ngx_http_clawd_error_write(u_char *p, ngx_http_clawd_family_e family,
    ngx_http_clawd_error_t *e)
{
    const ngx_http_clawd_error_def_t  *def;

    def = ngx_http_clawd_error_wording(e);

    switch (family) {

    case NGX_HTTP_CLAWD_ANTHROPIC:
        p = ngx_http_clawd_error_anthropic(p, def, e);
        p = ngx_http_clawd_error_literal(p, ",\"request_id\":");
        p = ngx_http_clawd_error_string(p, &e->request_id);
        break;

    case NGX_HTTP_CLAWD_OLLAMA:
        p = ngx_http_clawd_error_literal(p, "{\"error\":");
        p = ngx_http_clawd_error_message(p, def, e);
        break;

    default: /* NGX_HTTP_CLAWD_OPENAI */
        p = ngx_http_clawd_error_literal(p, "{\"error\":");
        p = ngx_http_clawd_error_openai(p, def, e);
    }

    *p++ = '}';

    return p;
}


u_char *
ngx_http_clawd_error_inband(u_char *p, ngx_http_clawd_format_e format,
    ngx_http_clawd_framing_e framing, ngx_http_clawd_error_t *e)
{
    const ngx_http_clawd_error_def_t  *def;

    if (framing != NGX_HTTP_CLAWD_FRAMING_SSE) {
        p = ngx_http_clawd_error_write(p, NGX_HTTP_CLAWD_OLLAMA, e);
        *p++ = '\n';

        return p;
    }

    def = ngx_http_clawd_error_wording(e);

    switch (format) {

    case NGX_HTTP_CLAWD_FORMAT_MESSAGES:
        p = ngx_http_clawd_error_literal(p, "event: error\ndata: ");
        p = ngx_http_clawd_error_anthropic(p, def, e);
        break;

    case NGX_HTTP_CLAWD_FORMAT_RESPONSES:
        p = ngx_http_clawd_error_literal(p, "event: error\ndata: ");
        p = ngx_http_clawd_error_responses(p, def, e);
        break;

    default:
        p = ngx_http_clawd_error_literal(p, "data: {\"error\":");
        p = ngx_http_clawd_error_openai(p, def, e);
    }

    return ngx_http_clawd_error_literal(p, "}\n\n");
}


static u_char *
ngx_http_clawd_error_literal(u_char *p, const char *text)
{
    return ngx_cpymem(p, text, ngx_strlen(text));
}


static u_char *
ngx_http_clawd_error_escape(u_char *p, const ngx_str_t *s)
{
    return ngx_http_clawd_json_escape(p, p + 6 * s->len, s->data,
                                      s->data + s->len);
}


/* a string, or null where there is none */

static u_char *
ngx_http_clawd_error_string(u_char *p, const ngx_str_t *s)
{
    if (s->len == 0) {
        return ngx_http_clawd_error_literal(p, "null");
    }

    *p++ = '"';
    p = ngx_http_clawd_error_escape(p, s);
    *p++ = '"';

    return p;
}


/* two of the three shapes have no place for the parameter but the message */

static u_char *
ngx_http_clawd_error_message(u_char *p, const ngx_http_clawd_error_def_t *def,
    ngx_http_clawd_error_t *e)
{
    if (e->message.len) {
        return ngx_http_clawd_error_string(p, &e->message);
    }

    *p++ = '"';
    p = ngx_http_clawd_error_escape(p, &def->message);

    if (e->param.len) {
        *p++ = ':';
        *p++ = ' ';
        p = ngx_http_clawd_error_escape(p, &e->param);
    }

    *p++ = '"';

    return p;
}


static u_char *
ngx_http_clawd_error_openai(u_char *p, const ngx_http_clawd_error_def_t *def,
    ngx_http_clawd_error_t *e)
{
    p = ngx_http_clawd_error_literal(p, "{\"message\":");
    p = ngx_http_clawd_error_message(p, def, e);
    p = ngx_http_clawd_error_literal(p, ",\"type\":");
    p = ngx_http_clawd_error_string(p, &def->type);
    p = ngx_http_clawd_error_literal(p, ",\"param\":");
    p = ngx_http_clawd_error_string(p, &e->param);
    p = ngx_http_clawd_error_literal(p, ",\"code\":");
    p = ngx_http_clawd_error_string(p, e->code.len ? &e->code : &def->code);
    *p++ = '}';

    return p;
}


/* without the closing brace: a whole body has one member more */

static u_char *
ngx_http_clawd_error_anthropic(u_char *p,
    const ngx_http_clawd_error_def_t *def, ngx_http_clawd_error_t *e)
{
    p = ngx_http_clawd_error_literal(p, "{\"type\":\"error\",\"error\":");
    p = ngx_http_clawd_error_literal(p, "{\"type\":");
    p = ngx_http_clawd_error_string(p, &def->anthropic);
    p = ngx_http_clawd_error_literal(p, ",\"message\":");
    p = ngx_http_clawd_error_message(p, def, e);
    *p++ = '}';

    return p;
}


/* readers look at the event's own members or at its error; likewise open */

static u_char *
ngx_http_clawd_error_responses(u_char *p,
    const ngx_http_clawd_error_def_t *def, ngx_http_clawd_error_t *e)
{
    p = ngx_http_clawd_error_literal(p, "{\"type\":\"error\",\"code\":");
    p = ngx_http_clawd_error_string(p, e->code.len ? &e->code : &def->code);
    p = ngx_http_clawd_error_literal(p, ",\"message\":");
    p = ngx_http_clawd_error_message(p, def, e);
    p = ngx_http_clawd_error_literal(p, ",\"param\":");
    p = ngx_http_clawd_error_string(p, &e->param);
    p = ngx_http_clawd_error_literal(p, ",\"sequence_number\":");

    p = ngx_http_clawd_number(p, e->sequence);
    p = ngx_http_clawd_error_literal(p, ",\"error\":");

    return ngx_http_clawd_error_openai(p, def, e);
}


ngx_int_t
ngx_http_clawd_error_read(ngx_http_clawd_error_t *e,
    ngx_http_clawd_family_e family, u_char *body, size_t len, u_char *scratch)
{
    u_char                        *p, *last;
    ngx_str_t                     *message;
    ngx_uint_t                     nested, shaped;
    ngx_http_clawd_error_shape_t   shape;

    ngx_str_null(&e->message);

    p = body;
    last = body + len;

    while (p < last && ngx_http_clawd_error_space(*p)) {
        p++;
    }

    while (p < last && ngx_http_clawd_error_space(last[-1])) {
        last--;
    }

    if (p == last) {
        return NGX_DECLINED;
    }

    if (*p != '{') {
        ngx_http_clawd_error_text(e, p, last, scratch);
        return NGX_DECLINED;
    }

    if (ngx_http_clawd_error_scan(&shape, p, last - p) != NGX_OK) {
        return NGX_DECLINED;
    }

    shaped = ngx_http_clawd_error_shaped(&shape, family);

    message = ngx_http_clawd_error_pick(&shape);
    if (message == NULL) {
        return NGX_DECLINED;
    }

    e->message.data = scratch;
    e->message.len = ngx_http_clawd_json_unescape(scratch, message->data,
                                                  message->data + message->len)
                     - scratch;

    nested = ngx_http_clawd_error_nested(e, &shape);

    if (shaped && !nested) {
        ngx_str_null(&e->message);
        return NGX_OK;
    }

    if (shape.context) {
        ngx_str_set(&e->code, "context_length_exceeded");
    }

    return NGX_DECLINED;
}


static ngx_uint_t
ngx_http_clawd_error_shaped(ngx_http_clawd_error_shape_t *shape,
    ngx_http_clawd_family_e family)
{
    if (shape->twice || shape->foreign) {
        return 0;
    }

    switch (family) {

    case NGX_HTTP_CLAWD_ANTHROPIC:
        return shape->object.data && shape->typed && shape->anthropic;

    case NGX_HTTP_CLAWD_OLLAMA:
        return shape->string.data != NULL;

    default: /* NGX_HTTP_CLAWD_OPENAI */
        return shape->object.data && !shape->anthropic;
    }
}


static ngx_int_t
ngx_http_clawd_error_scan(ngx_http_clawd_error_shape_t *shape, u_char *body,
    size_t len)
{
    u_char                       *p, *last;
    ngx_uint_t                    seen;
    ngx_http_clawd_json_t         js;
    ngx_http_clawd_json_event_e   event;

    ngx_memzero(shape, sizeof(ngx_http_clawd_error_shape_t));

    ngx_http_clawd_json_init(&js, &ngx_http_clawd_error_table);

    p = body;
    last = body + len;
    seen = 0;

    for ( ;; ) {
        event = ngx_http_clawd_json_next(&js, &p, last);

        switch (event) {

        case NGX_HTTP_CLAWD_JSON_SCALAR:
        case NGX_HTTP_CLAWD_JSON_BEGIN:

            if (seen & ((ngx_uint_t) 1 << js.node)) {
                shape->twice = 1;
            }

            seen |= (ngx_uint_t) 1 << js.node;

            ngx_http_clawd_error_value(shape, &js, body);
            break;

        case NGX_HTTP_CLAWD_JSON_END:
            break;

        case NGX_HTTP_CLAWD_JSON_DONE:
            return p == last ? NGX_OK : NGX_ERROR;

        default:
            return NGX_ERROR;
        }
    }
}


static void
ngx_http_clawd_error_value(ngx_http_clawd_error_shape_t *shape,
    ngx_http_clawd_json_t *js, u_char *body)
{
    ngx_str_t   s, text;
    ngx_uint_t  string;

    string = (js->type == NGX_HTTP_CLAWD_JSON_STRING);

    if (string) {
        s.data = body + js->start + 1;
        s.len = (size_t) (js->end - js->start - 2);

    } else {
        ngx_str_null(&s);
    }

    text.data = js->text;
    text.len = js->text_len;

    switch (js->node) {

    case NGX_HTTP_CLAWD_ERROR_ERROR:
        shape->string = s;
        break;

    case NGX_HTTP_CLAWD_ERROR_ERROR_MESSAGE:
        shape->object = s;
        break;

    case NGX_HTTP_CLAWD_ERROR_ERROR_TYPE:
        shape->typed = string;
        shape->context = string
                    && ngx_http_clawd_error_is(&text,
                                               "exceed_context_size_error");
        break;

    case NGX_HTTP_CLAWD_ERROR_TYPE:
        shape->anthropic = string && ngx_http_clawd_error_is(&text, "error");
        break;

    case NGX_HTTP_CLAWD_ERROR_MESSAGE:
    case NGX_HTTP_CLAWD_ERROR_DETAIL:
        shape->message = s;
        break;

    case NGX_HTTP_CLAWD_ERROR_STATUS:
    case NGX_HTTP_CLAWD_ERROR_ERROR_SIGNIN:
    case NGX_HTTP_CLAWD_ERROR_SIGNIN:
        shape->foreign = 1;
        break;
    }
}


static ngx_uint_t
ngx_http_clawd_error_is(ngx_str_t *s, const char *text)
{
    return s->len == ngx_strlen(text) && ngx_memcmp(s->data, text, s->len) == 0;
}


static ngx_str_t *
ngx_http_clawd_error_pick(ngx_http_clawd_error_shape_t *shape)
{
    if (shape->object.data) {
        return &shape->object;
    }

    if (shape->string.data) {
        return &shape->string;
    }

    return shape->message.data ? &shape->message : NULL;
}


/*
 * A message that is JSON itself, of a model runner: takes the message inside
 * it.  The text only gets shorter, so it is unescaped where it stands.
 */

static ngx_uint_t
ngx_http_clawd_error_nested(ngx_http_clawd_error_t *e,
    ngx_http_clawd_error_shape_t *shape)
{
    ngx_str_t                     *message;
    ngx_http_clawd_error_shape_t   inner;

    if (e->message.len == 0 || e->message.data[0] != '{') {
        return 0;
    }

    if (ngx_http_clawd_error_scan(&inner, e->message.data, e->message.len)
        != NGX_OK)
    {
        return 0;
    }

    message = ngx_http_clawd_error_pick(&inner);
    if (message == NULL || message->len == 0) {
        return 0;
    }

    e->message.len = ngx_http_clawd_json_unescape(e->message.data,
                                                  message->data,
                                                  message->data + message->len)
                     - e->message.data;

    shape->context = inner.context;

    return 1;
}


/* a short line of text says what is wrong; pages and dumps do not */

static void
ngx_http_clawd_error_text(ngx_http_clawd_error_t *e, u_char *p, u_char *last,
    u_char *scratch)
{
    u_char  *s;

    if (last - p > NGX_HTTP_CLAWD_ERROR_TEXT || *p == '<' || *p == '[') {
        return;
    }

    for (s = p; s < last; s++) {
        if (*s < 0x20 || *s >= 0x7f) {
            return;
        }
    }

    e->message.data = scratch;
    e->message.len = last - p;

    ngx_memcpy(scratch, p, last - p);
}


static ngx_uint_t
ngx_http_clawd_error_space(u_char ch)
{
    return ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n';
}
