/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_gate.h"
#include "ngx_http_clawd_request.h"


/* pieces in which a body that lies in a file is read */
#define NGX_HTTP_CLAWD_PIECE        65536

/* output tokens of a metered user who asks for no number */
#define NGX_HTTP_CLAWD_DEFAULT_MIN  256
#define NGX_HTTP_CLAWD_DEFAULT_MAX  4096


/* takes the next piece of the body; NGX_OK, or what ends the walk */

typedef ngx_int_t (*ngx_http_clawd_piece_pt)(void *data, u_char *p,
    u_char *last);


typedef struct {
    ngx_http_clawd_request_t  *rq;
    ngx_temp_file_t           *tf;     /* or, of a body in memory: */
    ngx_buf_t                 *out;
    u_char                    *piece;  /* room for one edited piece */
    off_t                      offset;
    ngx_uint_t                 edit;
} ngx_http_clawd_edited_t;


static int64_t ngx_http_clawd_body_default(ngx_http_clawd_ctx_t *ctx);
static void ngx_http_clawd_body_resume(ngx_http_request_t *r);
static ngx_int_t ngx_http_clawd_body_walk(ngx_http_request_t *r,
    ngx_http_clawd_piece_pt take, void *data);
static ngx_int_t ngx_http_clawd_body_walk_file(ngx_http_request_t *r,
    ngx_buf_t *b, ngx_http_clawd_piece_pt take, void *data);
static ngx_int_t ngx_http_clawd_body_scan(void *data, u_char *p,
    u_char *last);
static ngx_int_t ngx_http_clawd_body_edit(ngx_http_request_t *r,
    ngx_http_clawd_request_t *rq);
static ngx_int_t ngx_http_clawd_body_edit_memory(ngx_http_request_t *r,
    ngx_http_clawd_edited_t *e, off_t len, ngx_buf_t **out);
static ngx_int_t ngx_http_clawd_body_edit_file(ngx_http_request_t *r,
    ngx_http_clawd_edited_t *e, ngx_buf_t **out);
static ngx_int_t ngx_http_clawd_body_copy(void *data, u_char *p,
    u_char *last);
static ngx_int_t ngx_http_clawd_body_length(ngx_http_request_t *r,
    off_t len);


ngx_int_t
ngx_http_clawd_body(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_int_t  rc;

    /*
     * An upstream that expects no body of a GET would take it for the next
     * request of the connection, which nobody has judged.
     */

    if ((r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))
        && (r->headers_in.content_length_n > 0 || r->headers_in.chunked))
    {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_BODY, NULL);
    }

    if (ctx->api->class != NGX_HTTP_CLAWD_CLASS_INFER || ctx->body_read) {
        return NGX_OK;
    }

    if (r->headers_in.content_length_n <= 0 && !r->headers_in.chunked) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_EMPTY_BODY,
                                     NULL);
    }

    if (ctx->body_failed) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_PARTIAL_BODY,
                                     NULL);
    }

    ctx->body_reading = 1;

    rc = ngx_http_read_client_request_body(r, ngx_http_clawd_body_resume);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    /* the count that reading took; the phases go on in body_resume() */

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


static void
ngx_http_clawd_body_resume(ngx_http_request_t *r)
{
    ngx_http_clawd_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_clawd_module);

    /* after an error_page NGINX may read on, for nobody */

    if (ctx == NULL || !ctx->body_reading) {
        return;
    }

    ctx->body_reading = 0;
    ctx->body_read = 1;

    /* a later error_page or try of another upstream reads it again */

    r->preserve_body = 1;

    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}


ngx_int_t
ngx_http_clawd_body_model(ngx_http_request_t *r, ngx_http_clawd_ctx_t *ctx)
{
    ngx_int_t                   rc;
    ngx_http_clawd_request_t    rq;
    ngx_http_clawd_loc_conf_t  *clcf;

    if (ctx->api->class != NGX_HTTP_CLAWD_CLASS_INFER) {
        return NGX_OK;
    }

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_EMPTY_BODY,
                                     NULL);
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_clawd_module);

    rq.format = ctx->api->format;
    rq.max_tokens = clcf->max_tokens;
    rq.default_tokens = ngx_http_clawd_body_default(ctx);
    rq.native = (ctx->family == NGX_HTTP_CLAWD_OLLAMA);
    rq.admin = (ctx->who && ctx->who->admin);

    ngx_http_clawd_request_init(&rq);

    rc = ngx_http_clawd_body_walk(r, ngx_http_clawd_body_scan, &rq);

    if (rc == NGX_OK) {
        rc = ngx_http_clawd_request_end(&rq);
    }

    if (rc == NGX_ERROR && rq.error) {
        return ngx_http_clawd_refuse(r, ctx, rq.error,
                                     rq.param.len ? (char *) rq.param.data
                                                  : NULL);
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* a body that was edited before asks for usage because we made it so */

    if (!ctx->body_edited) {
        ctx->asked_usage = rq.asked_usage;
        ctx->prompt_bound = rq.prompt_bound;
        ctx->prompt_guess = rq.prompt_guess;
    }

    /* after this edit, whoever a location before took the client for */

    ctx->output_bound = rq.output_tokens;

    ctx->added_usage |= rq.added_usage;

    ctx->model.len = rq.model.label.len;
    ctx->model.data = ngx_pstrdup(r->pool, &rq.model.label);
    if (ctx->model.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->who
        && (!ngx_http_clawd_models_allow((ngx_str_t *) &ctx->who->models[0],
                                         &ctx->model)
            || !ngx_http_clawd_models_allow((ngx_str_t *) &ctx->who->models[1],
                                            &ctx->model)))
    {
        ngx_str_null(&ctx->model);

        return ngx_http_clawd_refuse(r, ctx, NGX_HTTP_CLAWD_ERR_MODEL_DENIED,
                                     "model");
    }

    if (rq.nedits == 0) {
        return NGX_OK;
    }

    if (ngx_http_clawd_body_edit(r, &rq) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->body_edited = 1;

    return NGX_OK;
}


/*
 * The answer's cap for a client that asks for none, where tokens are limited:
 * so much that an answer is worth having, and others of the same user fit.
 */

static int64_t
ngx_http_clawd_body_default(ngx_http_clawd_ctx_t *ctx)
{
    int64_t     least, limit;
    ngx_uint_t  i;

    if (ctx->who == NULL || !ctx->who->metered) {
        return 0;
    }

    least = 4 * NGX_HTTP_CLAWD_DEFAULT_MAX;

    for (i = NGX_HTTP_CLAWD_LIMIT_TPM; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        limit = ctx->who->terms.limits[i];

        if (limit >= 0) {
            least = ngx_min(least, limit);
        }
    }

    return ngx_max(least / 4, NGX_HTTP_CLAWD_DEFAULT_MIN);
}


static ngx_int_t
ngx_http_clawd_body_scan(void *data, u_char *p, u_char *last)
{
    return ngx_http_clawd_request_read(data, p, last);
}


/* NGX_ABORT when the body can't be read, else what the last take returned */

static ngx_int_t
ngx_http_clawd_body_walk(ngx_http_request_t *r, ngx_http_clawd_piece_pt take,
    void *data)
{
    u_char       *p, *last;
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            rc = NGX_OK;

            for (p = b->pos; p < b->last && rc == NGX_OK; p = last) {
                last = p + ngx_min(b->last - p, NGX_HTTP_CLAWD_PIECE);
                rc = take(data, p, last);
            }

        } else if (b->in_file) {
            rc = ngx_http_clawd_body_walk_file(r, b, take, data);

        } else {
            continue;
        }

        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_body_walk_file(ngx_http_request_t *r, ngx_buf_t *b,
    ngx_http_clawd_piece_pt take, void *data)
{
    off_t      offset;
    size_t     size;
    u_char    *piece;
    ssize_t    n;
    ngx_int_t  rc;

    piece = ngx_alloc(NGX_HTTP_CLAWD_PIECE, r->connection->log);
    if (piece == NULL) {
        return NGX_ABORT;
    }

    rc = NGX_OK;

    for (offset = b->file_pos; offset < b->file_last && rc == NGX_OK;
         offset += n)
    {
        size = (size_t) ngx_min(b->file_last - offset,
                                (off_t) NGX_HTTP_CLAWD_PIECE);

        n = ngx_read_file(b->file, piece, size, offset);

        if (n <= 0) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "clawd: the buffered request body can't be read");
            rc = NGX_ABORT;
            break;
        }

        rc = take(data, piece, piece + n);
    }

    ngx_free(piece);

    return rc;
}


/*
 * The edited body is one new buffer or one new file: a retry sets memory to
 * start and files to offset 0, so slices of the old one would be sent wrong.
 */

static ngx_int_t
ngx_http_clawd_body_edit(ngx_http_request_t *r, ngx_http_clawd_request_t *rq)
{
    off_t                     len, size;
    ngx_int_t                 rc;
    ngx_buf_t                *b;
    ngx_uint_t                in_file;
    ngx_chain_t              *cl;
    ngx_http_clawd_edited_t   e;

    size = 0;
    in_file = 0;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        size += ngx_buf_size(cl->buf);
        in_file |= !ngx_buf_in_memory(cl->buf) && cl->buf->in_file;
    }

    len = ngx_http_clawd_request_length(rq, size);

    ngx_memzero(&e, sizeof(ngx_http_clawd_edited_t));
    e.rq = rq;

    rc = in_file ? ngx_http_clawd_body_edit_file(r, &e, &b)
                 : ngx_http_clawd_body_edit_memory(r, &e, len, &b);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_buf_size(b) != len) {
        ngx_log_error(NGX_LOG_CRIT, r->connection->log, 0,
                      "clawd: the edited body has %O bytes instead of %O",
                      ngx_buf_size(b), len);
        return NGX_ERROR;
    }

    cl = ngx_alloc_chain_link(r->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    b->last_buf = 1;
    cl->buf = b;
    cl->next = NULL;

    r->request_body->bufs = cl;

    return ngx_http_clawd_body_length(r, len);
}


static ngx_int_t
ngx_http_clawd_body_edit_memory(ngx_http_request_t *r,
    ngx_http_clawd_edited_t *e, off_t len, ngx_buf_t **out)
{
    e->out = ngx_create_temp_buf(r->pool, (size_t) len);
    if (e->out == NULL) {
        return NGX_ERROR;
    }

    *out = e->out;

    return ngx_http_clawd_body_walk(r, ngx_http_clawd_body_copy, e);
}


static ngx_int_t
ngx_http_clawd_body_edit_file(ngx_http_request_t *r,
    ngx_http_clawd_edited_t *e, ngx_buf_t **out)
{
    size_t                     size;
    ngx_int_t                  rc;
    ngx_buf_t                 *b;
    ngx_uint_t                 i;
    ngx_temp_file_t           *tf;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    tf = ngx_pcalloc(r->pool, sizeof(ngx_temp_file_t));
    if (tf == NULL) {
        return NGX_ERROR;
    }

    tf->file.fd = NGX_INVALID_FILE;
    tf->file.log = r->connection->log;
    tf->path = clcf->client_body_temp_path;
    tf->pool = r->pool;
    tf->log_level = NGX_LOG_INFO;
    tf->warn = "an edited request body is buffered to a temporary file";

    size = NGX_HTTP_CLAWD_PIECE;

    for (i = 0; i < e->rq->nedits; i++) {
        size += e->rq->edits[i].text.len;
    }

    e->tf = tf;
    e->piece = ngx_alloc(size, r->connection->log);
    if (e->piece == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_http_clawd_body_walk(r, ngx_http_clawd_body_copy, e);

    ngx_free(e->piece);

    if (rc != NGX_OK) {
        return rc;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->in_file = 1;
    b->file = &tf->file;
    b->file_last = tf->offset;

    r->request_body->temp_file = tf;

    *out = b;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_body_copy(void *data, u_char *p, u_char *last)
{
    ngx_http_clawd_edited_t *e = data;

    u_char       *dst;
    ssize_t       n;
    ngx_buf_t     b;
    ngx_chain_t   cl;

    dst = e->tf ? e->piece : e->out->last;

    ngx_memzero(&b, sizeof(ngx_buf_t));

    b.pos = dst;
    b.last = ngx_http_clawd_request_copy(e->rq, dst, p, last, e->offset,
                                         &e->edit);
    b.memory = 1;

    e->offset += last - p;

    if (e->tf == NULL) {
        e->out->last = b.last;
        return NGX_OK;
    }

    cl.buf = &b;
    cl.next = NULL;

    n = ngx_write_chain_to_temp_file(e->tf, &cl);

    if (n == NGX_ERROR) {
        return NGX_ABORT;
    }

    e->tf->offset += n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_body_length(ngx_http_request_t *r, off_t len)
{
    u_char  *p;

    r->headers_in.content_length_n = len;
    r->headers_in.chunked = 0;

    if (r->headers_in.content_length == NULL) {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_OFF_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    r->headers_in.content_length->value.data = p;
    r->headers_in.content_length->value.len = ngx_sprintf(p, "%O", len) - p;

    return NGX_OK;
}
