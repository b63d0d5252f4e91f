/*
 * Copyright (C) clawd authors
 *
 * Answers that are read while they pass.  Bytes go on as they came, but for
 * three things: the usage event that only we asked for is dropped, a last data
 * event gets the blank line that it lacks, and a generation that ended
 * incomplete gets an error event.
 */

#include "ngx_http_clawd_observe.h"


/* what has become of one buffer: the bytes from keep on are not yet out */

typedef struct {
    ngx_chain_t  **last;      /* where the next link of the output goes */
    ngx_buf_t     *buf;
    u_char        *keep;
} ngx_http_clawd_cut_t;


/* p has the length of the name; nearly always it has its case as well */

#define ngx_http_clawd_stream_type_is(p, name)                                \
    (ngx_memcmp(p, name, sizeof(name) - 1) == 0                               \
     || ngx_strncasecmp(p, (u_char *) name, sizeof(name) - 1) == 0)

#define ngx_http_clawd_stream_coding_is(s, name)                              \
    ((s)->len == sizeof(name) - 1                                             \
     && ngx_strncasecmp((s)->data, (u_char *) name, sizeof(name) - 1) == 0)


static ngx_int_t ngx_http_clawd_stream_encoding(ngx_http_request_t *r,
    ngx_http_clawd_stream_t *st);
static ngx_http_clawd_framing_e ngx_http_clawd_stream_framing(
    ngx_http_request_t *r);
static void ngx_http_clawd_stream_read(void *data, u_char *p, u_char *last);
static ngx_int_t ngx_http_clawd_stream_event(ngx_http_clawd_ctx_t *ctx,
    u_char **pos, u_char *last);
static ngx_int_t ngx_http_clawd_stream_cut(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_cut_t *cut);
static ngx_int_t ngx_http_clawd_stream_pending(ngx_http_request_t *r,
    ngx_http_clawd_stream_t *st, ngx_http_clawd_cut_t *cut, u_char *event);
static ngx_int_t ngx_http_clawd_stream_keep(ngx_http_request_t *r,
    ngx_http_clawd_stream_t *st, ngx_http_clawd_cut_t *cut, u_char *to);
static ngx_int_t ngx_http_clawd_stream_rest(ngx_http_request_t *r,
    ngx_http_clawd_cut_t *cut);
static void ngx_http_clawd_stream_release(ngx_http_clawd_stream_t *st,
    ngx_http_clawd_cut_t *cut);
static ngx_int_t ngx_http_clawd_stream_end(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_cut_t *cut, ngx_uint_t gone);
static ngx_int_t ngx_http_clawd_stream_tail(ngx_http_request_t *r,
    ngx_http_clawd_ctx_t *ctx, ngx_http_clawd_cut_t *cut,
    ngx_http_clawd_end_e end, ngx_uint_t failed);
static ngx_chain_t *ngx_http_clawd_stream_buf(ngx_http_request_t *r,
    ngx_http_clawd_stream_t *st, size_t size);


ngx_int_t
ngx_http_clawd_stream_start(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_http_clawd_stream_t   *st;
    ngx_http_clawd_framing_e   framing;

    framing = ngx_http_clawd_stream_framing(r);

    if (ctx->api->format == NGX_HTTP_CLAWD_FORMAT_NONE
        || framing == NGX_HTTP_CLAWD_FRAMING_NONE
        || r->method == NGX_HTTP_HEAD
        || r->headers_out.status == NGX_HTTP_NO_CONTENT
        || r->headers_out.status == NGX_HTTP_NOT_MODIFIED)
    {
        return NGX_OK;
    }

    st = ngx_palloc(r->pool, sizeof(ngx_http_clawd_stream_t));
    if (st == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(st, offsetof(ngx_http_clawd_stream_t, answer));

    ngx_http_clawd_answer_init(&st->answer, ctx->api->format, framing);
    st->last_read = ngx_current_msec;

    if (ngx_http_clawd_stream_encoding(r, st) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->stream = st;

    r->filter_need_in_memory = 1;

    /* a part of an answer can't be metered */

    ngx_http_clear_accept_ranges(r);

    if (framing == NGX_HTTP_CLAWD_FRAMING_JSON) {
        return NGX_OK;
    }

    st->swallow = ctx->added_usage && !ctx->asked_usage
                  && !st->inflate && !st->encoded;

    /* what is dropped or added changes the length */

    ngx_http_clear_content_length(r);

#if (NGX_HTTP_GZIP)
    r->gzip_tested = 1;
    r->gzip_ok = 0;
#endif

    if (r->upstream) {
        r->upstream->buffering = 0;

        /* else the upstream goes on when the client has left */
        r->upstream->cacheable = 0;
    }

    return NGX_OK;
}


/* "none" is what some servers say to keep compression off on the way */

static ngx_int_t
ngx_http_clawd_stream_encoding(ngx_http_request_t *r,
    ngx_http_clawd_stream_t *st)
{
    ngx_str_t  *s;

    if (r->headers_out.content_encoding == NULL) {
        return NGX_OK;
    }

    s = &r->headers_out.content_encoding->value;

    if (s->len == 0 || ngx_http_clawd_stream_coding_is(s, "identity")
        || ngx_http_clawd_stream_coding_is(s, "none"))
    {
        return NGX_OK;
    }

    if (ngx_http_clawd_stream_coding_is(s, "gzip")
        || ngx_http_clawd_stream_coding_is(s, "x-gzip")
        || ngx_http_clawd_stream_coding_is(s, "deflate"))
    {
        st->inflate = ngx_http_clawd_inflate_create(r);
        return st->inflate ? NGX_OK : NGX_ERROR;
    }

    st->encoded = 1;

    return NGX_OK;
}


static ngx_http_clawd_framing_e
ngx_http_clawd_stream_framing(ngx_http_request_t *r)
{
    size_t      len;
    u_char     *p;

    p = r->headers_out.content_type.data;
    len = r->headers_out.content_type_len;

    if (p == NULL) {
        return NGX_HTTP_CLAWD_FRAMING_NONE;
    }

    if (len > r->headers_out.content_type.len) {
        len = r->headers_out.content_type.len;
    }

    /* of a type with parameters the length may count them */

    if (ngx_strlchr(p, p + len, ';')) {
        len = ngx_strlchr(p, p + len, ';') - p;
    }

    while (len && p[len - 1] == ' ') {
        len--;
    }

    switch (len) {

    case sizeof("application/json") - 1:
        if (ngx_http_clawd_stream_type_is(p, "application/json")) {
            return NGX_HTTP_CLAWD_FRAMING_JSON;
        }

        break;

    case sizeof("text/event-stream") - 1:
        if (ngx_http_clawd_stream_type_is(p, "text/event-stream")) {
            return NGX_HTTP_CLAWD_FRAMING_SSE;
        }

        break;

    case sizeof("application/x-ndjson") - 1:
        if (ngx_http_clawd_stream_type_is(p, "application/x-ndjson")) {
            return NGX_HTTP_CLAWD_FRAMING_NDJSON;
        }

        break;
    }

    return NGX_HTTP_CLAWD_FRAMING_NONE;
}


ngx_int_t
ngx_http_clawd_stream_filter(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_chain_t *in)
{
    ngx_int_t                 rc, end;
    ngx_buf_t                *b;
    ngx_chain_t              *cl, *out;
    ngx_http_clawd_cut_t      cut;
    ngx_http_clawd_stream_t  *st;

    st = ctx->stream;

    if (in == NULL || st->ended) {
        return ngx_http_clawd_next_body_filter(r, in);
    }

    out = NULL;
    end = NGX_OK;
    cut.last = &out;

    for (cl = in; cl; cl = cl->next) {
        b = cl->buf;

        cut.buf = b;
        cut.keep = b->pos;

        if (ngx_buf_in_memory(b) && b->pos != b->last) {
            st->last_read = ngx_current_msec;
            ngx_http_clawd_heard(r);

            if (ngx_http_clawd_stream_cut(r, ctx, &cut) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        if (b->last_buf || ngx_http_clawd_upstream_gone(r, b)) {
            end = ngx_http_clawd_stream_end(r, ctx, &cut, !b->last_buf);
            if (end == NGX_ERROR) {
                return NGX_ERROR;
            }

            break;
        }

        if (ngx_http_clawd_stream_rest(r, &cut) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    rc = out ? ngx_http_clawd_next_body_filter(r, out) : NGX_OK;

    ngx_chain_update_chains(r->pool, &st->free, &st->busy, &out,
                            (ngx_buf_tag_t) &ngx_http_clawd_module);

    /* a cut answer must not look whole: no last chunk is sent */

    return (end == NGX_ABORT) ? NGX_ERROR : rc;
}


/* reads the buffer and takes out of it what is dropped or held back */

static ngx_int_t
ngx_http_clawd_stream_cut(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_cut_t *cut)
{
    u_char                   *p, *last, *event;
    ngx_int_t                 rc;
    ngx_http_clawd_stream_t  *st;

    st = ctx->stream;
    p = cut->buf->pos;
    last = cut->buf->last;

    if (st->encoded) {
        st->answer.facts.text_bytes += last - p;
        return NGX_OK;
    }

    if (st->inflate) {
        if (ngx_http_clawd_inflate(st->inflate, p, last,
                                   ngx_http_clawd_stream_read, ctx)
            != NGX_OK)
        {
            st->answer.facts.anomaly = 1;
            st->garbled = 1;
        }

        return NGX_OK;
    }

    while (p < last) {

        event = p;
        rc = ngx_http_clawd_stream_event(ctx, &p, last);

        if (!st->swallow) {
            continue;
        }

        if (rc == NGX_AGAIN) {
            return ngx_http_clawd_stream_pending(r, st, cut, event);
        }

        if (st->answer.usage_only && !st->let_go) {

            if (ngx_http_clawd_stream_keep(r, st, cut, event) != NGX_OK) {
                return NGX_ERROR;
            }

            cut->keep = p;

            if (st->hold) {
                st->hold->next = st->free;
                st->free = st->hold;
                st->hold = NULL;
            }

        } else {
            ngx_http_clawd_stream_release(st, cut);
        }

        st->let_go = 0;
    }

    return NGX_OK;
}


/* one event or what there is of it; notes when output tokens came */

static ngx_int_t
ngx_http_clawd_stream_event(ngx_http_clawd_ctx_t *ctx, u_char **pos,
    u_char *last)
{
    ngx_int_t                 rc;
    ngx_uint_t                deltas;
    ngx_http_clawd_stream_t  *st;

    st = ctx->stream;
    deltas = st->answer.facts.deltas;

    rc = ngx_http_clawd_answer_read(&st->answer, pos, last);

    if (st->answer.facts.deltas != deltas
        && st->answer.framing != NGX_HTTP_CLAWD_FRAMING_JSON)
    {
        ctx->last_token = ngx_current_msec;

        if (!ctx->token_seen) {
            ctx->token_seen = 1;
            ctx->first_token = ngx_current_msec;
        }
    }

    return rc;
}


static void
ngx_http_clawd_stream_read(void *data, u_char *p, u_char *last)
{
    while (p < last) {
        (void) ngx_http_clawd_stream_event(data, &p, last);
    }
}


/* the buffer ends within an event, which began at event or in hold */

static ngx_int_t
ngx_http_clawd_stream_pending(ngx_http_request_t *r,
    ngx_http_clawd_stream_t *st, ngx_http_clawd_cut_t *cut, u_char *event)
{
    size_t      len;
    ngx_buf_t  *h;

    len = cut->buf->last - event;
    h = st->hold ? st->hold->buf : NULL;

    if (st->answer.event == NGX_HTTP_CLAWD_EVENT_NONE) {
        return NGX_OK;
    }

    if (st->answer.event == NGX_HTTP_CLAWD_EVENT_PLAIN || st->let_go
        || (h ? h->last - h->pos : 0) + len > NGX_HTTP_CLAWD_HOLD_MAX)
    {
        st->let_go = 1;
        ngx_http_clawd_stream_release(st, cut);
        return NGX_OK;
    }

    if (h == NULL) {
        st->hold = ngx_http_clawd_stream_buf(r, st, NGX_HTTP_CLAWD_HOLD_MAX);
        if (st->hold == NULL) {
            return NGX_ERROR;
        }

        h = st->hold->buf;
    }

    if (ngx_http_clawd_stream_keep(r, st, cut, event) != NGX_OK) {
        return NGX_ERROR;
    }

    h->last = ngx_cpymem(h->last, event, len);
    h->flush |= cut->buf->flush;
    cut->keep = cut->buf->last;

    return NGX_OK;
}


/*
 * Sends keep .. to on as a copy: the rest of the buffer is sent in the buffer
 * itself, whose memory belongs to the upstream until it is sent.
 */

static ngx_int_t
ngx_http_clawd_stream_keep(ngx_http_request_t *r, ngx_http_clawd_stream_t *st,
    ngx_http_clawd_cut_t *cut, u_char *to)
{
    size_t        len;
    ngx_chain_t  *cl;

    len = to - cut->keep;

    if (len == 0) {
        return NGX_OK;
    }

    cl = ngx_http_clawd_stream_buf(r, st, len);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    cl->buf->last = ngx_cpymem(cl->buf->last, cut->keep, len);
    cl->buf->flush = cut->buf->flush;

    *cut->last = cl;
    cut->last = &cl->next;
    cut->keep = to;

    return NGX_OK;
}


/* the held bytes go on, ahead of those of the buffer */

static void
ngx_http_clawd_stream_release(ngx_http_clawd_stream_t *st,
    ngx_http_clawd_cut_t *cut)
{
    if (st->hold) {
        *cut->last = st->hold;
        cut->last = &st->hold->next;
        *cut->last = NULL;
        st->hold = NULL;
    }
}


/* what is left of the buffer goes on in itself */

static ngx_int_t
ngx_http_clawd_stream_rest(ngx_http_request_t *r, ngx_http_clawd_cut_t *cut)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    b = cut->buf;

    /* one that was emptied may not be sent */

    if (ngx_buf_in_memory(b)) {
        b->pos = cut->keep;

        if (b->pos == b->last && !b->last_buf) {
            return NGX_OK;
        }
    }

    cl = ngx_alloc_chain_link(r->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    cl->buf = b;
    cl->next = NULL;

    *cut->last = cl;
    cut->last = &cl->next;

    return NGX_OK;
}


/*
 * The end of the body, clean or not (gone).  NGX_ABORT: send what there is and
 * cut the connection.
 */

static ngx_int_t
ngx_http_clawd_stream_end(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_cut_t *cut, ngx_uint_t gone)
{
    ngx_uint_t                failed, emptied;
    ngx_http_clawd_end_e      end;
    ngx_http_clawd_facts_t   *facts;
    ngx_http_clawd_stream_t  *st;

    st = ctx->stream;
    st->ended = 1;
    st->reset = gone;

    /* a timer that moves by less is not set anew: it goes off early */

    if (gone && ngx_current_msec - st->last_read + NGX_TIMER_LAZY_DELAY
                >= r->upstream->conf->read_timeout)
    {
        st->timedout = 1;
    }

    end = ngx_http_clawd_answer_end(&st->answer);
    facts = &st->answer.facts;

    /* half a line break may be all that its end lacks */

    if (st->hold && st->answer.usage_only) {
        st->hold = NULL;
        end = NGX_HTTP_CLAWD_END_BOUNDARY;
    }

    /* a clean end is all that can be told of what can't be read */

    if (st->encoded && !gone) {
        facts->complete = 1;
    }

    ngx_http_clawd_stream_release(st, cut);

    if (st->answer.framing == NGX_HTTP_CLAWD_FRAMING_JSON) {
        return ngx_http_clawd_stream_rest(r, cut);
    }

    failed = !facts->complete && !(facts->error && facts->told)
             && !st->garbled;
    emptied = ngx_buf_in_memory(cut->buf) && cut->keep == cut->buf->last;

    /* no event can be placed behind half an event or into compressed bytes */

    if ((failed || gone)
        && (st->inflate || st->encoded || end == NGX_HTTP_CLAWD_END_BROKEN))
    {
        cut->buf->last_buf = 0;

        if (ngx_buf_in_memory(cut->buf)
            && ngx_http_clawd_stream_rest(r, cut) != NGX_OK)
        {
            return NGX_ERROR;
        }

        return NGX_ABORT;
    }

    if (!failed && !gone && !emptied
        && (end != NGX_HTTP_CLAWD_END_WHOLE || st->inflate || st->encoded
            || st->answer.framing != NGX_HTTP_CLAWD_FRAMING_SSE))
    {
        return ngx_http_clawd_stream_rest(r, cut);
    }

    return ngx_http_clawd_stream_tail(r, ctx, cut, end, failed);
}


/* the terminator of the last event, the error event, and the end */

static ngx_int_t
ngx_http_clawd_stream_tail(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx,
    ngx_http_clawd_cut_t *cut, ngx_http_clawd_end_e end, ngx_uint_t failed)
{
    u_char                   *p;
    ngx_chain_t              *cl;
    ngx_http_clawd_error_t    e;
    ngx_http_clawd_answer_t  *a;

    a = &ctx->stream->answer;

    ngx_memzero(&e, sizeof(ngx_http_clawd_error_t));
    e.id = NGX_HTTP_CLAWD_ERR_INCOMPLETE;
    e.request_id = ctx->request_id;
    e.sequence = a->facts.events;

    cl = ngx_http_clawd_stream_buf(r, ctx->stream,
                                   ngx_http_clawd_error_size(&e) + 2);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    p = cl->buf->last;

    if (a->framing == NGX_HTTP_CLAWD_FRAMING_SSE) {

        if (end == NGX_HTTP_CLAWD_END_WHOLE
            || (end == NGX_HTTP_CLAWD_END_COMMENT && failed))
        {
            *p++ = '\n';
            *p++ = '\n';
        }

    } else if (end != NGX_HTTP_CLAWD_END_BOUNDARY && failed) {
        *p++ = '\n';
    }

    if (failed) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "clawd: the upstream's answer ended incomplete");

        p = ngx_http_clawd_error_inband(p, a->format, a->framing, &e);
    }

    cut->buf->last_buf = 0;
    cut->buf->last_in_chain = 0;

    if (ngx_buf_in_memory(cut->buf)
        && ngx_http_clawd_stream_rest(r, cut) != NGX_OK)
    {
        return NGX_ERROR;
    }

    cl->buf->memory = (p != cl->buf->pos);
    cl->buf->temporary = 0;
    cl->buf->last = p;
    cl->buf->last_buf = 1;
    cl->buf->last_in_chain = 1;
    cl->buf->flush = 1;

    *cut->last = cl;
    cut->last = &cl->next;

    return NGX_OK;
}


/* an empty buffer of our own, in a link; used again when it has been sent */

static ngx_chain_t *
ngx_http_clawd_stream_buf(ngx_http_request_t *r, ngx_http_clawd_stream_t *st,
    size_t size)
{
    size_t        n;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    cl = ngx_chain_get_free_buf(r->pool, &st->free);
    if (cl == NULL) {
        return NULL;
    }

    b = cl->buf;

    if (b->start == NULL || (size_t) (b->end - b->start) < size) {

        /* powers of two, so that growing again and again stays bounded */

        for (n = 256; n < size; n *= 2) { /* void */ }

        b->start = ngx_pnalloc(r->pool, n);
        if (b->start == NULL) {
            return NULL;
        }

        b->end = b->start + n;
    }

    b->pos = b->start;
    b->last = b->start;
    b->tag = (ngx_buf_tag_t) &ngx_http_clawd_module;
    b->memory = 1;
    b->flush = 0;
    b->last_buf = 0;
    b->last_in_chain = 0;
    b->sync = 0;

    cl->next = NULL;

    return cl;
}
