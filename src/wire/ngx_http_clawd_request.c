/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_request.h"
#include "ngx_http_clawd_number.h"


/*
 * Values up to the last reload key are judged at the end and have a field.
 * The others are controls only: they steer the output or its price, so none of
 * them may have two readings.
 */

typedef enum {
    NGX_HTTP_CLAWD_RQ_ROOT = 0,
    NGX_HTTP_CLAWD_RQ_MODEL,
    NGX_HTTP_CLAWD_RQ_STREAM,
    NGX_HTTP_CLAWD_RQ_STREAM_OPTIONS,
    NGX_HTTP_CLAWD_RQ_INCLUDE_USAGE,
    NGX_HTTP_CLAWD_RQ_MAX_TOKENS,
    NGX_HTTP_CLAWD_RQ_MAX_COMPLETION_TOKENS,
    NGX_HTTP_CLAWD_RQ_MAX_OUTPUT_TOKENS,
    NGX_HTTP_CLAWD_RQ_N_PREDICT,
    NGX_HTTP_CLAWD_RQ_KEEP_ALIVE,
    NGX_HTTP_CLAWD_RQ_DEBUG_RENDER,
    NGX_HTTP_CLAWD_RQ_OPTIONS,
    NGX_HTTP_CLAWD_RQ_NUM_PREDICT,
    NGX_HTTP_CLAWD_RQ_N,
    NGX_HTTP_CLAWD_RQ_N_CMPL,
    NGX_HTTP_CLAWD_RQ_BEST_OF,
    NGX_HTTP_CLAWD_RQ_TEMPLATE,
    NGX_HTTP_CLAWD_RQ_CHAT_TEMPLATE,

    NGX_HTTP_CLAWD_RQ_NUM_CTX,
    NGX_HTTP_CLAWD_RQ_NUM_GPU,
    NGX_HTTP_CLAWD_RQ_NUM_BATCH,
    NGX_HTTP_CLAWD_RQ_MAIN_GPU,
    NGX_HTTP_CLAWD_RQ_USE_MMAP,
    NGX_HTTP_CLAWD_RQ_USE_MLOCK,
    NGX_HTTP_CLAWD_RQ_NUM_THREAD,
    NGX_HTTP_CLAWD_RQ_DRAFT_NUM_PREDICT,
    NGX_HTTP_CLAWD_RQ_LOW_VRAM,
    NGX_HTTP_CLAWD_RQ_F16_KV,
    NGX_HTTP_CLAWD_RQ_NUMA,

    NGX_HTTP_CLAWD_RQ_TOOLS,
    NGX_HTTP_CLAWD_RQ_TOOL,
    NGX_HTTP_CLAWD_RQ_TOOL_TYPE,
    NGX_HTTP_CLAWD_RQ_MESSAGES,
    NGX_HTTP_CLAWD_RQ_PROMPT,
    NGX_HTTP_CLAWD_RQ_SUFFIX,
    NGX_HTTP_CLAWD_RQ_INPUT,
    NGX_HTTP_CLAWD_RQ_INSTRUCTIONS,
    NGX_HTTP_CLAWD_RQ_SYSTEM,
    NGX_HTTP_CLAWD_RQ_CONTEXT,
    NGX_HTTP_CLAWD_RQ_IMAGES,
    NGX_HTTP_CLAWD_RQ_RAW,
    NGX_HTTP_CLAWD_RQ_FORMAT,
    NGX_HTTP_CLAWD_RQ_RESPONSE_FORMAT,
    NGX_HTTP_CLAWD_RQ_THINK,
    NGX_HTTP_CLAWD_RQ_NODES
} ngx_http_clawd_request_node_e;


#define NGX_HTTP_CLAWD_RQ_RELOAD_FIRST  NGX_HTTP_CLAWD_RQ_NUM_CTX
#define NGX_HTTP_CLAWD_RQ_RELOAD_LAST   NGX_HTTP_CLAWD_RQ_NUMA


#define ngx_http_clawd_request_control(key, parent, flags)                    \
    { ngx_string(key), NGX_HTTP_CLAWD_RQ_##parent,                            \
      NGX_HTTP_CLAWD_JSON_CONTROL | flags }

#define ngx_http_clawd_request_rule(key)                                      \
    ngx_http_clawd_request_control(key, ROOT, NGX_HTTP_CLAWD_JSON_STEP)


/* in the order of ngx_http_clawd_request_node_e */

static const ngx_http_clawd_json_node_t  ngx_http_clawd_request_nodes[] = {

    { ngx_null_string, 0, 0 },

    ngx_http_clawd_request_control("model", ROOT, NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("stream", ROOT, 0),
    ngx_http_clawd_request_control("stream_options", ROOT, 0),
    ngx_http_clawd_request_control("include_usage", STREAM_OPTIONS, 0),
    ngx_http_clawd_request_control("max_tokens", ROOT,
                                   NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("max_completion_tokens", ROOT,
                                   NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("max_output_tokens", ROOT,
                                   NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("n_predict", ROOT,
                                   NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("keep_alive", ROOT, 0),
    ngx_http_clawd_request_control("_debug_render_only", ROOT, 0),
    ngx_http_clawd_request_control("options", ROOT, 0),
    ngx_http_clawd_request_control("num_predict", OPTIONS,
                                   NGX_HTTP_CLAWD_JSON_CAPTURE),

    ngx_http_clawd_request_control("n", ROOT, NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("n_cmpl", ROOT,
                                   NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("best_of", ROOT,
                                   NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("template", ROOT, 0),
    ngx_http_clawd_request_control("chat_template", ROOT, 0),

    ngx_http_clawd_request_control("num_ctx", OPTIONS, 0),
    ngx_http_clawd_request_control("num_gpu", OPTIONS, 0),
    ngx_http_clawd_request_control("num_batch", OPTIONS, 0),
    ngx_http_clawd_request_control("main_gpu", OPTIONS, 0),
    ngx_http_clawd_request_control("use_mmap", OPTIONS, 0),
    ngx_http_clawd_request_control("use_mlock", OPTIONS, 0),
    ngx_http_clawd_request_control("num_thread", OPTIONS, 0),
    ngx_http_clawd_request_control("draft_num_predict", OPTIONS, 0),
    ngx_http_clawd_request_control("low_vram", OPTIONS, 0),
    ngx_http_clawd_request_control("f16_kv", OPTIONS, 0),
    ngx_http_clawd_request_control("numa", OPTIONS, 0),

    ngx_http_clawd_request_rule("tools"),
    { ngx_string("*"), NGX_HTTP_CLAWD_RQ_TOOLS, NGX_HTTP_CLAWD_JSON_NO_END },
    ngx_http_clawd_request_control("type", TOOL, NGX_HTTP_CLAWD_JSON_CAPTURE),
    ngx_http_clawd_request_control("messages", ROOT,
                                   NGX_HTTP_CLAWD_JSON_NO_END),
    ngx_http_clawd_request_rule("prompt"),
    ngx_http_clawd_request_rule("suffix"),
    ngx_http_clawd_request_rule("input"),
    ngx_http_clawd_request_rule("instructions"),
    ngx_http_clawd_request_rule("system"),
    ngx_http_clawd_request_rule("context"),
    ngx_http_clawd_request_rule("images"),
    ngx_http_clawd_request_rule("raw"),
    ngx_http_clawd_request_rule("format"),
    ngx_http_clawd_request_rule("response_format"),
    ngx_http_clawd_request_rule("think")
};


/*
 * Beyond these a format has nodes that lead to its images.  All of them are
 * controls: were a second reading of one possible, a text could be taken for
 * an image here, or an image for a few bytes of text.
 */

typedef enum {
    NGX_HTTP_CLAWD_RQ_STEP = 0,
    NGX_HTTP_CLAWD_RQ_MESSAGE,         /* an element of messages or input */
    NGX_HTTP_CLAWD_RQ_PART,            /* an element of its content */
    NGX_HTTP_CLAWD_RQ_INNER_PART,      /* …of the content of that */
    NGX_HTTP_CLAWD_RQ_PART_TYPE,
    NGX_HTTP_CLAWD_RQ_MEDIA,           /* an image, in a string or object */
    NGX_HTTP_CLAWD_RQ_MEDIA_URL,
    NGX_HTTP_CLAWD_RQ_SOURCE_TYPE,
    NGX_HTTP_CLAWD_RQ_SOURCE_DATA,
    NGX_HTTP_CLAWD_RQ_AUDIO_DATA,
    NGX_HTTP_CLAWD_RQ_IMAGE,           /* an image whose text is base64 */
    NGX_HTTP_CLAWD_RQ_ROOT_IMAGE,      /* …which a chat ignores */
    NGX_HTTP_CLAWD_RQ_PROMPT_ITEM
} ngx_http_clawd_request_kind_e;


typedef struct {
    ngx_http_clawd_json_node_t     node;
    ngx_http_clawd_request_kind_e  kind;
} ngx_http_clawd_request_extra_t;


typedef struct {
    const ngx_http_clawd_request_extra_t  *extras;
    ngx_uint_t                   nextras;
    ngx_str_t                    image;        /* the type of a part that is
                                                  one */

    /* made when it is first used */

    ngx_http_clawd_json_table_t  table;
    ngx_http_clawd_json_node_t   nodes[NGX_HTTP_CLAWD_JSON_NODES];
    u_char                       kinds[NGX_HTTP_CLAWD_JSON_NODES];
} ngx_http_clawd_request_format_t;


#define ngx_http_clawd_request_each(parent, kind)                             \
    { { ngx_string("*"), parent, NGX_HTTP_CLAWD_JSON_NO_END },                \
      NGX_HTTP_CLAWD_RQ_##kind }

#define ngx_http_clawd_request_parts(parent, kind)                            \
    { { ngx_string("*"), parent, 0 }, NGX_HTTP_CLAWD_RQ_##kind }

#define ngx_http_clawd_request_member(key, parent, flags, kind)               \
    { { ngx_string(key), parent, NGX_HTTP_CLAWD_JSON_CONTROL                  \
                                 | NGX_HTTP_CLAWD_JSON_##flags },             \
      NGX_HTTP_CLAWD_RQ_##kind }

/* the parent that is the extra node i of the same format */

#define ngx_http_clawd_request_up(i)  (NGX_HTTP_CLAWD_RQ_NODES + (i))


static const ngx_http_clawd_request_extra_t  ngx_http_clawd_request_chat[] = {
    ngx_http_clawd_request_each(NGX_HTTP_CLAWD_RQ_MESSAGES, MESSAGE),
    ngx_http_clawd_request_member("content", ngx_http_clawd_request_up(0),
                                  STEP, STEP),
    ngx_http_clawd_request_parts(ngx_http_clawd_request_up(1), PART),
    ngx_http_clawd_request_member("type", ngx_http_clawd_request_up(2),
                                  CAPTURE, PART_TYPE),
    ngx_http_clawd_request_member("image_url", ngx_http_clawd_request_up(2),
                                  CAPTURE|NGX_HTTP_CLAWD_JSON_NO_END, MEDIA),
    ngx_http_clawd_request_member("url", ngx_http_clawd_request_up(4),
                                  CAPTURE, MEDIA_URL),
    ngx_http_clawd_request_member("input_audio", ngx_http_clawd_request_up(2),
                                  NO_END, MEDIA),
    ngx_http_clawd_request_member("data", ngx_http_clawd_request_up(6),
                                  NO_END, AUDIO_DATA)
};


static const ngx_http_clawd_request_extra_t
    ngx_http_clawd_request_messages[] =
{
    ngx_http_clawd_request_each(NGX_HTTP_CLAWD_RQ_MESSAGES, MESSAGE),
    ngx_http_clawd_request_member("content", ngx_http_clawd_request_up(0),
                                  STEP, STEP),
    ngx_http_clawd_request_parts(ngx_http_clawd_request_up(1), PART),
    ngx_http_clawd_request_member("type", ngx_http_clawd_request_up(2),
                                  CAPTURE, PART_TYPE),
    ngx_http_clawd_request_member("source", ngx_http_clawd_request_up(2),
                                  NO_END, MEDIA),
    ngx_http_clawd_request_member("type", ngx_http_clawd_request_up(4),
                                  CAPTURE, SOURCE_TYPE),
    ngx_http_clawd_request_member("data", ngx_http_clawd_request_up(4),
                                  NO_END, SOURCE_DATA),
    ngx_http_clawd_request_member("content", ngx_http_clawd_request_up(2),
                                  STEP, STEP),
    ngx_http_clawd_request_parts(ngx_http_clawd_request_up(7), INNER_PART),
    ngx_http_clawd_request_member("type", ngx_http_clawd_request_up(8),
                                  CAPTURE, PART_TYPE),
    ngx_http_clawd_request_member("source", ngx_http_clawd_request_up(8),
                                  NO_END, MEDIA),
    ngx_http_clawd_request_member("type", ngx_http_clawd_request_up(10),
                                  CAPTURE, SOURCE_TYPE),
    ngx_http_clawd_request_member("data", ngx_http_clawd_request_up(10),
                                  NO_END, SOURCE_DATA)
};


static const ngx_http_clawd_request_extra_t
    ngx_http_clawd_request_responses[] =
{
    ngx_http_clawd_request_each(NGX_HTTP_CLAWD_RQ_INPUT, MESSAGE),
    ngx_http_clawd_request_member("content", ngx_http_clawd_request_up(0),
                                  STEP, STEP),
    ngx_http_clawd_request_parts(ngx_http_clawd_request_up(1), PART),
    ngx_http_clawd_request_member("type", ngx_http_clawd_request_up(2),
                                  CAPTURE, PART_TYPE),
    ngx_http_clawd_request_member("image_url", ngx_http_clawd_request_up(2),
                                  CAPTURE|NGX_HTTP_CLAWD_JSON_NO_END, MEDIA),
    ngx_http_clawd_request_member("output", ngx_http_clawd_request_up(0),
                                  STEP, STEP),
    ngx_http_clawd_request_parts(ngx_http_clawd_request_up(5), PART),
    ngx_http_clawd_request_member("type", ngx_http_clawd_request_up(6),
                                  CAPTURE, PART_TYPE),
    ngx_http_clawd_request_member("image_url", ngx_http_clawd_request_up(6),
                                  CAPTURE|NGX_HTTP_CLAWD_JSON_NO_END, MEDIA)
};


static const ngx_http_clawd_request_extra_t
    ngx_http_clawd_request_native[] =
{
    ngx_http_clawd_request_each(NGX_HTTP_CLAWD_RQ_MESSAGES, MESSAGE),
    ngx_http_clawd_request_member("images", ngx_http_clawd_request_up(0),
                                  STEP, STEP),
    ngx_http_clawd_request_each(ngx_http_clawd_request_up(1), IMAGE),
    ngx_http_clawd_request_each(NGX_HTTP_CLAWD_RQ_IMAGES, ROOT_IMAGE)
};


/* prompts may be objects with images, which are counted but not set aside */

static const ngx_http_clawd_request_extra_t
    ngx_http_clawd_request_completions[] =
{
    ngx_http_clawd_request_each(NGX_HTTP_CLAWD_RQ_PROMPT, PROMPT_ITEM),
    ngx_http_clawd_request_member("multimodal_data",
                                  ngx_http_clawd_request_up(0), STEP, STEP),
    ngx_http_clawd_request_each(ngx_http_clawd_request_up(1), MEDIA),
    ngx_http_clawd_request_member("multimodal_data",
                                  NGX_HTTP_CLAWD_RQ_PROMPT, STEP, STEP),
    ngx_http_clawd_request_each(ngx_http_clawd_request_up(3), MEDIA)
};


#define ngx_http_clawd_request_extras(name, image)                            \
    { ngx_http_clawd_request_##name,                                          \
      sizeof(ngx_http_clawd_request_##name)                                   \
      / sizeof(ngx_http_clawd_request_extra_t),                               \
      image, { NULL, 0, 0, 0, 0, { 0 }, { 0 } }, { { { 0, NULL }, 0, 0 } },   \
      { 0 } }


/* in the order of ngx_http_clawd_format_e */

static ngx_http_clawd_request_format_t  ngx_http_clawd_request_formats[] = {
    { NULL, 0, ngx_null_string, { NULL, 0, 0, 0, 0, { 0 }, { 0 } },
      { { { 0, NULL }, 0, 0 } }, { 0 } },
    ngx_http_clawd_request_extras(chat, ngx_string("image_url")),
    ngx_http_clawd_request_extras(completions, ngx_null_string),
    ngx_http_clawd_request_extras(responses, ngx_string("input_image")),
    ngx_http_clawd_request_extras(messages, ngx_string("image")),
    ngx_http_clawd_request_extras(native, ngx_null_string),
    { NULL, 0, ngx_null_string, { NULL, 0, 0, 0, 0, { 0 }, { 0 } },
      { { { 0, NULL }, 0, 0 } }, { 0 } }
};


_Static_assert(NGX_HTTP_CLAWD_RQ_NODES
               + sizeof(ngx_http_clawd_request_messages)
                 / sizeof(ngx_http_clawd_request_extra_t)
               <= NGX_HTTP_CLAWD_JSON_NODES,
               "the format with the most nodes has room for them");

_Static_assert(sizeof(ngx_http_clawd_request_formats)
               / sizeof(ngx_http_clawd_request_format_t)
               == NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS + 1,
               "every format has its nodes");

_Static_assert(sizeof(ngx_http_clawd_request_nodes)
               == NGX_HTTP_CLAWD_RQ_NODES * sizeof(ngx_http_clawd_json_node_t),
               "every node has its key");

_Static_assert(NGX_HTTP_CLAWD_REQUEST_FIELDS
               == NGX_HTTP_CLAWD_RQ_RELOAD_LAST + 1,
               "every value that is judged has its field");

/* one edit of a field at most, that of the root being a second insertion */

_Static_assert(NGX_HTTP_CLAWD_REQUEST_EDITS >= NGX_HTTP_CLAWD_REQUEST_FIELDS,
               "every field can be edited");


static ngx_http_clawd_request_format_t *ngx_http_clawd_request_format(
    ngx_http_clawd_format_e format);
static ngx_int_t ngx_http_clawd_request_refuse(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_error_e error, ngx_uint_t node);
static ngx_int_t ngx_http_clawd_request_event(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event);
static void ngx_http_clawd_request_value(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event);
static void ngx_http_clawd_request_extra(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event);
static void ngx_http_clawd_request_part(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event, ngx_uint_t level);
static void ngx_http_clawd_request_part_end(ngx_http_clawd_request_t *rq,
    ngx_uint_t level);
static void ngx_http_clawd_request_part_type(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_request_part_t *part);
static ngx_uint_t ngx_http_clawd_request_text(ngx_http_clawd_json_t *js,
    const char *text, size_t len);
static void ngx_http_clawd_request_name(ngx_http_clawd_request_t *rq);
static ngx_uint_t ngx_http_clawd_request_search(ngx_http_clawd_json_t *js);
static u_char *ngx_http_clawd_request_space(u_char *p, u_char *last);
static ngx_int_t ngx_http_clawd_request_model(ngx_http_clawd_request_t *rq);
static ngx_int_t ngx_http_clawd_request_types(ngx_http_clawd_request_t *rq);
static ngx_uint_t ngx_http_clawd_request_is(ngx_http_clawd_request_t *rq,
    ngx_uint_t node, ngx_uint_t types);
static ngx_int_t ngx_http_clawd_request_multipliers(
    ngx_http_clawd_request_t *rq, int64_t *generations);
static ngx_int_t ngx_http_clawd_request_policy(ngx_http_clawd_request_t *rq);
static void ngx_http_clawd_request_usage(ngx_http_clawd_request_t *rq);
static void ngx_http_clawd_request_cap(ngx_http_clawd_request_t *rq);
static ngx_uint_t ngx_http_clawd_request_own(ngx_http_clawd_format_e format);
static int64_t ngx_http_clawd_request_limit(ngx_http_clawd_request_t *rq,
    ngx_uint_t own);
static int64_t ngx_http_clawd_request_asked(ngx_http_clawd_request_t *rq,
    ngx_uint_t node);
static void ngx_http_clawd_request_others(ngx_http_clawd_request_t *rq,
    ngx_uint_t own, int64_t limit, ngx_str_t *number);
static void ngx_http_clawd_request_cap_missing(ngx_http_clawd_request_t *rq,
    ngx_uint_t node, ngx_str_t *number);
static void ngx_http_clawd_request_output(ngx_http_clawd_request_t *rq,
    int64_t generations);
static void ngx_http_clawd_request_prompt(ngx_http_clawd_request_t *rq);
static void ngx_http_clawd_request_replace(ngx_http_clawd_request_t *rq,
    ngx_uint_t node, ngx_str_t *text);
static void ngx_http_clawd_request_insert(ngx_http_clawd_request_t *rq,
    ngx_uint_t node, ngx_str_t *text);
static void ngx_http_clawd_request_edit(ngx_http_clawd_request_t *rq,
    off_t start, off_t end, ngx_str_t *text);


void
ngx_http_clawd_request_init(ngx_http_clawd_request_t *rq)
{
    ngx_http_clawd_request_format_t  *format;

    ngx_memzero(&rq->model, sizeof(ngx_http_clawd_model_t));
    ngx_memzero(rq->fields, sizeof(rq->fields));

    rq->stream = 0;
    rq->asked_usage = 0;
    rq->added_usage = 0;
    rq->output_tokens = -1;
    rq->prompt_bound = 0;
    rq->prompt_guess = 0;

    rq->error = NGX_HTTP_CLAWD_ERR_NONE;
    ngx_str_null(&rq->param);

    rq->nedits = 0;

    rq->peek = NGX_HTTP_CLAWD_RQ_ROOT;
    rq->begun = 0;
    rq->done = 0;
    rq->web_search = 0;
    rq->named = 0;
    rq->name_len = 0;
    rq->chat = 0;

    ngx_memzero(rq->parts, sizeof(rq->parts));

    rq->level = 0;
    rq->prompts = 0;
    rq->messages = 0;
    rq->tools = 0;
    rq->images = 0;
    rq->aside = 0;
    rq->root_aside = 0;

    format = ngx_http_clawd_request_format(rq->format);

    rq->kinds = format->kinds;

    ngx_http_clawd_json_init(&rq->js, &format->table);
}


static ngx_http_clawd_request_format_t *
ngx_http_clawd_request_format(ngx_http_clawd_format_e format)
{
    ngx_uint_t                        i, node;
    ngx_http_clawd_request_format_t  *f;

    f = &ngx_http_clawd_request_formats[format];

    if (f->table.nodes) {
        return f;
    }

    ngx_memcpy(f->nodes, ngx_http_clawd_request_nodes,
               sizeof(ngx_http_clawd_request_nodes));

    for (i = 0; i < f->nextras; i++) {
        node = NGX_HTTP_CLAWD_RQ_NODES + i;

        f->nodes[node] = f->extras[i].node;
        f->kinds[node] = (u_char) f->extras[i].kind;
    }

    f->table.nodes = f->nodes;
    f->table.nnodes = NGX_HTTP_CLAWD_RQ_NODES + f->nextras;

    return f;
}


ngx_int_t
ngx_http_clawd_request_read(ngx_http_clawd_request_t *rq, u_char *p,
    u_char *last)
{
    u_char                       *s;
    ngx_http_clawd_json_event_e   event;

    if (rq->error != NGX_HTTP_CLAWD_ERR_NONE) {
        return NGX_ERROR;
    }

    if (!rq->begun && ngx_http_clawd_request_space(p, last) < last) {
        rq->begun = 1;
    }

    while (!rq->done) {

        if (rq->peek) {
            s = ngx_http_clawd_request_space(p, last);

            if (s < last) {
                rq->fields[rq->peek].empty = (*s == '}');
                rq->peek = NGX_HTTP_CLAWD_RQ_ROOT;
            }
        }

        event = ngx_http_clawd_json_next(&rq->js, &p, last);

        if (event == NGX_HTTP_CLAWD_JSON_AGAIN) {
            return NGX_OK;
        }

        if (ngx_http_clawd_request_event(rq, event) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ngx_http_clawd_request_space(p, last) < last) {
        return ngx_http_clawd_request_refuse(rq, NGX_HTTP_CLAWD_ERR_TRAILING,
                                             NGX_HTTP_CLAWD_RQ_ROOT);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_request_event(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event)
{
    ngx_http_clawd_error_e  error;
    ngx_http_clawd_json_t  *js;

    js = &rq->js;

    switch (event) {

    case NGX_HTTP_CLAWD_JSON_DONE:
        rq->done = 1;
        return NGX_OK;

    case NGX_HTTP_CLAWD_JSON_END:

        if (js->node < NGX_HTTP_CLAWD_REQUEST_FIELDS) {
            rq->fields[js->node].end = js->end;

        } else if (js->node >= NGX_HTTP_CLAWD_RQ_NODES) {
            ngx_http_clawd_request_extra(rq, event);
        }

        return NGX_OK;

    case NGX_HTTP_CLAWD_JSON_SCALAR:
    case NGX_HTTP_CLAWD_JSON_BEGIN:

        if (js->node == NGX_HTTP_CLAWD_RQ_ROOT
            && js->type != NGX_HTTP_CLAWD_JSON_OBJECT)
        {
            error = NGX_HTTP_CLAWD_ERR_JSON;
            break;
        }

        ngx_http_clawd_request_value(rq, event);
        return NGX_OK;

    default: /* NGX_HTTP_CLAWD_JSON_ERROR */

        switch (js->error) {

        case NGX_HTTP_CLAWD_JSON_DUPLICATE:
        case NGX_HTTP_CLAWD_JSON_FOLDED:
            return ngx_http_clawd_request_refuse(rq,
                                                 NGX_HTTP_CLAWD_ERR_DUPLICATE,
                                                 js->node);

        case NGX_HTTP_CLAWD_JSON_TOO_DEEP:
            error = NGX_HTTP_CLAWD_ERR_DEPTH;
            break;

        default:
            error = NGX_HTTP_CLAWD_ERR_JSON;
        }
    }

    return ngx_http_clawd_request_refuse(rq, error, NGX_HTTP_CLAWD_RQ_ROOT);
}


static void
ngx_http_clawd_request_value(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event)
{
    ngx_http_clawd_json_t           *js;
    ngx_http_clawd_request_field_t  *f;

    js = &rq->js;

    if (js->node >= NGX_HTTP_CLAWD_REQUEST_FIELDS) {

        switch (js->node) {

        case NGX_HTTP_CLAWD_RQ_TOOL:
            rq->tools++;
            break;

        case NGX_HTTP_CLAWD_RQ_TOOL_TYPE:
            rq->web_search |= ngx_http_clawd_request_search(js);
            break;

        case NGX_HTTP_CLAWD_RQ_MESSAGES:
            rq->chat = (js->type == NGX_HTTP_CLAWD_JSON_ARRAY);
            break;

        default:

            if (js->node >= NGX_HTTP_CLAWD_RQ_NODES) {
                ngx_http_clawd_request_extra(rq, event);
            }
        }

        return;
    }

    f = &rq->fields[js->node];

    f->seen = 1;
    f->type = js->type;
    f->start = js->start;

    if (event == NGX_HTTP_CLAWD_JSON_BEGIN) {

        if (js->type == NGX_HTTP_CLAWD_JSON_OBJECT) {
            rq->peek = js->node;
        }

        return;
    }

    f->end = js->end;

    if (js->type == NGX_HTTP_CLAWD_JSON_NUMBER
        && (ngx_http_clawd_request_nodes[js->node].flags
            & NGX_HTTP_CLAWD_JSON_CAPTURE))
    {
        f->count = ngx_http_clawd_json_count(js);
    }

    if (js->node == NGX_HTTP_CLAWD_RQ_MODEL) {
        ngx_http_clawd_request_name(rq);
    }
}


/*
 * Counts images, and the bytes of those that are no text for certain.  What is
 * of an image's place but not of its form counts as both.
 */

static void
ngx_http_clawd_request_extra(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event)
{
    off_t                           text;
    ngx_uint_t                      holds;
    ngx_http_clawd_json_t          *js;
    ngx_http_clawd_request_part_t  *part;

    js = &rq->js;
    part = &rq->parts[rq->level];

    text = (js->type == NGX_HTTP_CLAWD_JSON_STRING) ? js->size : 0;
    holds = (js->type >= NGX_HTTP_CLAWD_JSON_STRING);

    switch (rq->kinds[js->node]) {

    case NGX_HTTP_CLAWD_RQ_MESSAGE:
        rq->messages++;
        break;

    case NGX_HTTP_CLAWD_RQ_PROMPT_ITEM:
        rq->prompts += holds;
        break;

    case NGX_HTTP_CLAWD_RQ_PART:
        ngx_http_clawd_request_part(rq, event, 0);
        break;

    case NGX_HTTP_CLAWD_RQ_INNER_PART:
        ngx_http_clawd_request_part(rq, event, 1);
        break;

    case NGX_HTTP_CLAWD_RQ_PART_TYPE:
        ngx_http_clawd_request_part_type(rq, part);
        break;

    case NGX_HTTP_CLAWD_RQ_MEDIA:
        rq->images += holds;
        /* fall through */

    case NGX_HTTP_CLAWD_RQ_MEDIA_URL:

        if (text && event == NGX_HTTP_CLAWD_JSON_SCALAR
            && js->text_len >= 5 && ngx_memcmp(js->text, "data:", 5) == 0)
        {
            part->data += text;
        }

        break;

    case NGX_HTTP_CLAWD_RQ_SOURCE_TYPE:
        part->base64 = ngx_http_clawd_request_text(js, "base64", 6);
        break;

    case NGX_HTTP_CLAWD_RQ_SOURCE_DATA:
        part->data += text;
        break;

    case NGX_HTTP_CLAWD_RQ_AUDIO_DATA:
        part->audio += text;
        break;

    case NGX_HTTP_CLAWD_RQ_IMAGE:
        rq->images += holds;
        rq->aside += text;
        break;

    case NGX_HTTP_CLAWD_RQ_ROOT_IMAGE:
        rq->images += holds;
        rq->root_aside += text;
        break;
    }
}


static void
ngx_http_clawd_request_part(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_json_event_e event, ngx_uint_t level)
{
    switch (event) {

    case NGX_HTTP_CLAWD_JSON_BEGIN:
        rq->level = level;
        ngx_memzero(&rq->parts[level], sizeof(ngx_http_clawd_request_part_t));
        break;

    case NGX_HTTP_CLAWD_JSON_END:
        rq->level = 0;
        ngx_http_clawd_request_part_end(rq, level);
        break;

    default:
        break;
    }
}


/* only now its type is known, which may stand behind what it is the type of */

static void
ngx_http_clawd_request_part_end(ngx_http_clawd_request_t *rq,
    ngx_uint_t level)
{
    off_t                           aside;
    ngx_http_clawd_request_part_t  *part;

    part = &rq->parts[level];
    aside = 0;

    if (part->image
        && (part->base64 || rq->format != NGX_HTTP_CLAWD_FORMAT_MESSAGES))
    {
        aside = part->data;

    } else if (part->sound) {
        aside = part->audio - part->audio / NGX_HTTP_CLAWD_AUDIO_BYTES;

    } else if (part->result) {
        aside = part->inner;
    }

    if (level) {
        rq->parts[0].inner += aside;

    } else {
        rq->aside += aside;
    }
}


static void
ngx_http_clawd_request_part_type(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_request_part_t *part)
{
    ngx_str_t  *image;

    image = &ngx_http_clawd_request_formats[rq->format].image;

    part->image = ngx_http_clawd_request_text(&rq->js, (char *) image->data,
                                              image->len);
    part->sound = ngx_http_clawd_request_text(&rq->js, "input_audio", 11);
    part->result = ngx_http_clawd_request_text(&rq->js, "tool_result", 11);
}


static ngx_uint_t
ngx_http_clawd_request_text(ngx_http_clawd_json_t *js, const char *text,
    size_t len)
{
    return js->type == NGX_HTTP_CLAWD_JSON_STRING && js->text_len == len
           && ngx_memcmp(js->text, text, len) == 0;
}


/* room is left for a quote on either side */

static void
ngx_http_clawd_request_name(ngx_http_clawd_request_t *rq)
{
    ngx_http_clawd_json_t  *js;

    js = &rq->js;

    if (js->type != NGX_HTTP_CLAWD_JSON_STRING || js->truncated
        || js->invalid)
    {
        return;
    }

    rq->named = 1;
    rq->name_len = js->text_len;

    ngx_memcpy(rq->name + 1, js->text, js->text_len);
}


/* a tool that the upstream would run by itself, past the gateway */

static ngx_uint_t
ngx_http_clawd_request_search(ngx_http_clawd_json_t *js)
{
    size_t               i;
    static const u_char  prefix[] = "web_search";

    if (js->type != NGX_HTTP_CLAWD_JSON_STRING
        || js->text_len < sizeof(prefix) - 1)
    {
        return 0;
    }

    for (i = 0; i < sizeof(prefix) - 1; i++) {
        if (ngx_tolower(js->text[i]) != prefix[i]) {
            return 0;
        }
    }

    return 1;
}


static u_char *
ngx_http_clawd_request_space(u_char *p, u_char *last)
{
    while (p < last
           && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
    {
        p++;
    }

    return p;
}


static ngx_int_t
ngx_http_clawd_request_refuse(ngx_http_clawd_request_t *rq,
    ngx_http_clawd_error_e error, ngx_uint_t node)
{
    rq->error = error;
    rq->param = rq->js.table->nodes[node].key;

    return NGX_ERROR;
}


ngx_int_t
ngx_http_clawd_request_end(ngx_http_clawd_request_t *rq)
{
    int64_t  generations;

    if (rq->error != NGX_HTTP_CLAWD_ERR_NONE) {
        return NGX_ERROR;
    }

    if (!rq->done) {
        return ngx_http_clawd_request_refuse(rq,
                   rq->begun ? NGX_HTTP_CLAWD_ERR_JSON
                             : NGX_HTTP_CLAWD_ERR_EMPTY_BODY,
                   NGX_HTTP_CLAWD_RQ_ROOT);
    }

    if (ngx_http_clawd_request_model(rq) != NGX_OK
        || ngx_http_clawd_request_types(rq) != NGX_OK
        || ngx_http_clawd_request_multipliers(rq, &generations) != NGX_OK
        || ngx_http_clawd_request_policy(rq) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_http_clawd_request_usage(rq);
    ngx_http_clawd_request_cap(rq);
    ngx_http_clawd_request_output(rq, generations);
    ngx_http_clawd_request_prompt(rq);

    return NGX_OK;
}


static ngx_int_t
ngx_http_clawd_request_model(ngx_http_clawd_request_t *rq)
{
    ngx_str_t  name, text;

    name.data = rq->name + 1;
    name.len = rq->name_len;

    if (!rq->named
        || ngx_http_clawd_model_parse(&rq->model, &name) != NGX_OK)
    {
        return ngx_http_clawd_request_refuse(rq, NGX_HTTP_CLAWD_ERR_MODEL,
                                             NGX_HTTP_CLAWD_RQ_MODEL);
    }

    if (rq->model.cloud) {
        return ngx_http_clawd_request_refuse(rq,
                                             NGX_HTTP_CLAWD_ERR_MODEL_DENIED,
                                             NGX_HTTP_CLAWD_RQ_MODEL);
    }

    if (rq->model.sent.len == name.len) {
        return NGX_OK;
    }

    text.data = rq->model.sent.data - 1;
    text.len = rq->model.sent.len + 2;

    text.data[0] = '"';
    text.data[text.len - 1] = '"';

    ngx_http_clawd_request_replace(rq, NGX_HTTP_CLAWD_RQ_MODEL, &text);

    return NGX_OK;
}


#define ngx_http_clawd_request_type(type)                                     \
    ((ngx_uint_t) 1 << NGX_HTTP_CLAWD_JSON_##type)

#define NGX_HTTP_CLAWD_RQ_BOOL                                                \
    (ngx_http_clawd_request_type(TRUE) | ngx_http_clawd_request_type(FALSE)   \
     | ngx_http_clawd_request_type(NULL))

#define NGX_HTTP_CLAWD_RQ_OBJECT                                              \
    (ngx_http_clawd_request_type(OBJECT) | ngx_http_clawd_request_type(NULL))

#define NGX_HTTP_CLAWD_RQ_NUMBER                                              \
    (ngx_http_clawd_request_type(NUMBER) | ngx_http_clawd_request_type(NULL))


static ngx_int_t
ngx_http_clawd_request_types(ngx_http_clawd_request_t *rq)
{
    ngx_uint_t  i, node, n;

    static const struct {
        ngx_uint_t  node;
        ngx_uint_t  types;
    } rules[] = {
        { NGX_HTTP_CLAWD_RQ_STREAM, NGX_HTTP_CLAWD_RQ_BOOL },
        { NGX_HTTP_CLAWD_RQ_STREAM_OPTIONS, NGX_HTTP_CLAWD_RQ_OBJECT },
        { NGX_HTTP_CLAWD_RQ_INCLUDE_USAGE, NGX_HTTP_CLAWD_RQ_BOOL },
        { NGX_HTTP_CLAWD_RQ_MAX_TOKENS, NGX_HTTP_CLAWD_RQ_NUMBER },
        { NGX_HTTP_CLAWD_RQ_MAX_COMPLETION_TOKENS, NGX_HTTP_CLAWD_RQ_NUMBER },
        { NGX_HTTP_CLAWD_RQ_MAX_OUTPUT_TOKENS, NGX_HTTP_CLAWD_RQ_NUMBER },
        { NGX_HTTP_CLAWD_RQ_N_PREDICT, NGX_HTTP_CLAWD_RQ_NUMBER },
        { NGX_HTTP_CLAWD_RQ_OPTIONS, NGX_HTTP_CLAWD_RQ_OBJECT },
        { NGX_HTTP_CLAWD_RQ_NUM_PREDICT, NGX_HTTP_CLAWD_RQ_NUMBER }
    };

    n = sizeof(rules) / sizeof(rules[0]);

    for (i = 0; i < n; i++) {
        node = rules[i].node;

        if (rq->fields[node].seen
            && !ngx_http_clawd_request_is(rq, node, rules[i].types))
        {
            return ngx_http_clawd_request_refuse(rq, NGX_HTTP_CLAWD_ERR_TYPE,
                                                 node);
        }
    }

    rq->stream = (rq->fields[NGX_HTTP_CLAWD_RQ_STREAM].type
                  == NGX_HTTP_CLAWD_JSON_TRUE);

    return NGX_OK;
}


static ngx_uint_t
ngx_http_clawd_request_is(ngx_http_clawd_request_t *rq, ngx_uint_t node,
    ngx_uint_t types)
{
    return (types & ((ngx_uint_t) 1 << rq->fields[node].type)) != 0;
}


/* null is absent; anything else has to have one meaning to every server */

static ngx_int_t
ngx_http_clawd_request_multipliers(ngx_http_clawd_request_t *rq,
    int64_t *generations)
{
    ngx_uint_t                       node;
    ngx_http_clawd_request_field_t  *f;

    *generations = 1;

    if (rq->format == NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS) {
        return NGX_OK;
    }

    for (node = NGX_HTTP_CLAWD_RQ_N;
         node <= NGX_HTTP_CLAWD_RQ_BEST_OF;
         node++)
    {
        f = &rq->fields[node];

        if (f->type == NGX_HTTP_CLAWD_JSON_NULL) {
            continue;
        }

        if (f->type != NGX_HTTP_CLAWD_JSON_NUMBER || f->count < 1
            || f->count > NGX_HTTP_CLAWD_GENERATIONS)
        {
            return ngx_http_clawd_request_refuse(rq, NGX_HTTP_CLAWD_ERR_TYPE,
                                                 node);
        }

        *generations = ngx_max(*generations, f->count);
    }

    return NGX_OK;
}


/* what would act on other users, or past the gateway, is an admin's */

static ngx_int_t
ngx_http_clawd_request_policy(ngx_http_clawd_request_t *rq)
{
    ngx_uint_t        node;
    static ngx_str_t  null = ngx_string("null");

    if (rq->admin) {
        return NGX_OK;
    }

    node = NGX_HTTP_CLAWD_RQ_DEBUG_RENDER;

    if (rq->fields[node].type != NGX_HTTP_CLAWD_JSON_FALSE
        && rq->fields[node].type != NGX_HTTP_CLAWD_JSON_NULL)
    {
        return ngx_http_clawd_request_refuse(rq,
                                             NGX_HTTP_CLAWD_ERR_PARAM_DENIED,
                                             node);
    }

    if (rq->web_search
        && (rq->format == NGX_HTTP_CLAWD_FORMAT_RESPONSES
            || rq->format == NGX_HTTP_CLAWD_FORMAT_MESSAGES))
    {
        return ngx_http_clawd_request_refuse(rq,
                                             NGX_HTTP_CLAWD_ERR_PARAM_DENIED,
                                             NGX_HTTP_CLAWD_RQ_TOOLS);
    }

    if (!rq->native) {
        return NGX_OK;
    }

    /* null is absent for the upstream; a field unseen has the type of null */

    if (rq->fields[NGX_HTTP_CLAWD_RQ_KEEP_ALIVE].type
        != NGX_HTTP_CLAWD_JSON_NULL)
    {
        ngx_http_clawd_request_replace(rq, NGX_HTTP_CLAWD_RQ_KEEP_ALIVE,
                                       &null);
    }

    for (node = NGX_HTTP_CLAWD_RQ_RELOAD_FIRST;
         node <= NGX_HTTP_CLAWD_RQ_RELOAD_LAST;
         node++)
    {
        if (rq->fields[node].type != NGX_HTTP_CLAWD_JSON_NULL) {
            ngx_http_clawd_request_replace(rq, node, &null);
        }
    }

    return NGX_OK;
}


static void
ngx_http_clawd_request_usage(ngx_http_clawd_request_t *rq)
{
    ngx_http_clawd_request_field_t  *options, *include;

    static ngx_str_t  whole =
        ngx_string("\"stream_options\":{\"include_usage\":true},");
    static ngx_str_t  object = ngx_string("{\"include_usage\":true}");
    static ngx_str_t  first = ngx_string("\"include_usage\":true,");
    static ngx_str_t  only = ngx_string("\"include_usage\":true");
    static ngx_str_t  yes = ngx_string("true");

    options = &rq->fields[NGX_HTTP_CLAWD_RQ_STREAM_OPTIONS];
    include = &rq->fields[NGX_HTTP_CLAWD_RQ_INCLUDE_USAGE];

    rq->asked_usage = (include->type == NGX_HTTP_CLAWD_JSON_TRUE);

    if (!rq->stream || rq->asked_usage
        || (rq->format != NGX_HTTP_CLAWD_FORMAT_CHAT
            && rq->format != NGX_HTTP_CLAWD_FORMAT_COMPLETIONS))
    {
        return;
    }

    rq->added_usage = 1;

    if (!options->seen) {
        ngx_http_clawd_request_insert(rq, NGX_HTTP_CLAWD_RQ_ROOT, &whole);

    } else if (options->type == NGX_HTTP_CLAWD_JSON_NULL) {
        ngx_http_clawd_request_replace(rq, NGX_HTTP_CLAWD_RQ_STREAM_OPTIONS,
                                       &object);

    } else if (include->seen) {
        ngx_http_clawd_request_replace(rq, NGX_HTTP_CLAWD_RQ_INCLUDE_USAGE,
                                       &yes);

    } else {
        ngx_http_clawd_request_insert(rq, NGX_HTTP_CLAWD_RQ_STREAM_OPTIONS,
                                      options->empty ? &only : &first);
    }
}


/*
 * Servers differ in the limit that they read.  The format's own one gets the
 * smallest number that was asked for; no other may say more than the cap, and
 * a null stays, for it makes its reader look at the format's own.
 */

static void
ngx_http_clawd_request_cap(ngx_http_clawd_request_t *rq)
{
    int64_t                          limit;
    ngx_str_t                        number;
    ngx_uint_t                       own;
    ngx_http_clawd_request_field_t  *f;

    own = ngx_http_clawd_request_own(rq->format);

    if (own == NGX_HTTP_CLAWD_RQ_ROOT) {
        return;
    }

    limit = ngx_http_clawd_request_limit(rq, own);

    if (limit == 0) {
        return;
    }

    rq->output_tokens = limit;

    number.data = rq->number;
    number.len = ngx_http_clawd_number(rq->number, limit) - rq->number;

    f = &rq->fields[own];

    if (rq->max_tokens > 0 || rq->default_tokens > 0) {

        if (!f->seen) {
            ngx_http_clawd_request_cap_missing(rq, own, &number);

        } else if (f->count != limit) {
            ngx_http_clawd_request_replace(rq, own, &number);
        }
    }

    ngx_http_clawd_request_others(rq, own, limit, &number);
}


static ngx_uint_t
ngx_http_clawd_request_own(ngx_http_clawd_format_e format)
{
    switch (format) {

    case NGX_HTTP_CLAWD_FORMAT_CHAT:
    case NGX_HTTP_CLAWD_FORMAT_COMPLETIONS:
    case NGX_HTTP_CLAWD_FORMAT_MESSAGES:
        return NGX_HTTP_CLAWD_RQ_MAX_TOKENS;

    case NGX_HTTP_CLAWD_FORMAT_RESPONSES:
        return NGX_HTTP_CLAWD_RQ_MAX_OUTPUT_TOKENS;

    case NGX_HTTP_CLAWD_FORMAT_NATIVE:
        return NGX_HTTP_CLAWD_RQ_NUM_PREDICT;

    default:
        return NGX_HTTP_CLAWD_RQ_ROOT;
    }
}


/* what the format's own field has to say, or 0 when nothing bounds it */

static int64_t
ngx_http_clawd_request_limit(ngx_http_clawd_request_t *rq, ngx_uint_t own)
{
    int64_t  limit, other;

    limit = ngx_http_clawd_request_asked(rq, own);

    /* uncapped it stays beside the own one, whose reader it does not bind */

    if (rq->format == NGX_HTTP_CLAWD_FORMAT_CHAT
        && (rq->max_tokens > 0 || rq->default_tokens > 0))
    {
        other = ngx_http_clawd_request_asked(rq,
                                     NGX_HTTP_CLAWD_RQ_MAX_COMPLETION_TOKENS);

        if (other && (limit == 0 || other < limit)) {
            limit = other;
        }
    }

    if (limit == 0) {
        limit = ngx_max(rq->default_tokens, 0);
    }

    if (rq->max_tokens > 0 && (limit == 0 || limit > rq->max_tokens)) {
        limit = rq->max_tokens;
    }

    return limit;
}


/* the limit that a field asks for, or 0 when it is of no use */

static int64_t
ngx_http_clawd_request_asked(ngx_http_clawd_request_t *rq, ngx_uint_t node)
{
    int64_t  count;

    count = rq->fields[node].count;

    if (count > NGX_HTTP_CLAWD_ABSURD_TOKENS
        && (rq->default_tokens > 0 || rq->max_tokens <= 0))
    {
        return 0;
    }

    return ngx_max(count, 0);
}


/*
 * Makes the other limits say no more than they may, or the output, which is
 * unknown then, as large as the largest of them.
 */

static void
ngx_http_clawd_request_others(ngx_http_clawd_request_t *rq, ngx_uint_t own,
    int64_t limit, ngx_str_t *number)
{
    int64_t                          most;
    ngx_uint_t                       i, capped;
    ngx_http_clawd_request_field_t  *f;

    static const ngx_uint_t  nodes[] = {
        NGX_HTTP_CLAWD_RQ_MAX_TOKENS,
        NGX_HTTP_CLAWD_RQ_MAX_COMPLETION_TOKENS,
        NGX_HTTP_CLAWD_RQ_MAX_OUTPUT_TOKENS,
        NGX_HTTP_CLAWD_RQ_N_PREDICT,
        NGX_HTTP_CLAWD_RQ_NUM_PREDICT
    };

    capped = (rq->max_tokens > 0 || rq->default_tokens > 0);

    most = (rq->default_tokens > 0) ? limit
           : capped ? rq->max_tokens : NGX_HTTP_CLAWD_ABSURD_TOKENS;

    for (i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
        f = &rq->fields[nodes[i]];

        if (nodes[i] == own || f->type != NGX_HTTP_CLAWD_JSON_NUMBER) {
            continue;
        }

        if (f->count >= 1 && f->count <= most) {
            rq->output_tokens = ngx_max(rq->output_tokens, f->count);

        } else if (capped) {
            ngx_http_clawd_request_replace(rq, nodes[i], number);

        } else {
            rq->output_tokens = -1;
            return;
        }
    }
}


static void
ngx_http_clawd_request_output(ngx_http_clawd_request_t *rq,
    int64_t generations)
{
    int64_t  prompts;

    if (rq->format == NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS) {
        rq->output_tokens = 0;
        return;
    }

    if (rq->output_tokens < 0) {
        return;
    }

    prompts = ngx_max(rq->prompts, 1);

    if (rq->output_tokens
        > NGX_HTTP_CLAWD_OUTPUT_TOKENS / generations / prompts)
    {
        rq->output_tokens = NGX_HTTP_CLAWD_OUTPUT_TOKENS;
        return;
    }

    rq->output_tokens *= generations * prompts;
}


/*
 * A token is at least a byte of text, and JSON only adds to the bytes of a
 * text.  What else makes tokens has its constant.
 */

static void
ngx_http_clawd_request_prompt(ngx_http_clawd_request_t *rq)
{
    off_t                            bytes;
    ngx_uint_t                       node;
    ngx_http_clawd_request_field_t  *f;

    bytes = rq->fields[NGX_HTTP_CLAWD_RQ_ROOT].end - rq->aside;

    if (!rq->chat) {
        bytes -= rq->root_aside;
    }

    rq->prompt_guess = bytes / 4 + rq->images * NGX_HTTP_CLAWD_IMAGE_GUESS;

    rq->prompt_bound = bytes + rq->images * NGX_HTTP_CLAWD_IMAGE_TOKENS
                       + ngx_max(rq->prompts, 1)
                         * NGX_HTTP_CLAWD_TEMPLATE_TOKENS
                       + rq->messages * NGX_HTTP_CLAWD_MESSAGE_TOKENS
                       + rq->tools * NGX_HTTP_CLAWD_TOOL_TOKENS;

    if (rq->tools) {
        rq->prompt_bound += NGX_HTTP_CLAWD_TOOLS_TOKENS;
    }

    for (node = NGX_HTTP_CLAWD_RQ_TEMPLATE;
         node <= NGX_HTTP_CLAWD_RQ_CHAT_TEMPLATE;
         node++)
    {
        f = &rq->fields[node];

        /* an empty one is as good as none */

        if (f->type == NGX_HTTP_CLAWD_JSON_STRING && f->end - f->start > 2) {
            rq->prompt_bound += NGX_HTTP_CLAWD_OVERRIDE_TOKENS;
        }
    }
}


static void
ngx_http_clawd_request_cap_missing(ngx_http_clawd_request_t *rq,
    ngx_uint_t node, ngx_str_t *number)
{
    u_char                          *p;
    ngx_str_t                        text;
    ngx_uint_t                       parent, wrap;
    const ngx_str_t                 *key;
    ngx_http_clawd_request_field_t  *f;

    key = &ngx_http_clawd_request_nodes[node].key;
    parent = ngx_http_clawd_request_nodes[node].parent;

    f = &rq->fields[parent];
    wrap = (f->type == NGX_HTTP_CLAWD_JSON_NULL);

    p = rq->insert;

    if (!f->seen) {
        p = ngx_cpymem(p, "\"options\":", sizeof("\"options\":") - 1);
    }

    if (wrap) {
        *p++ = '{';
    }

    *p++ = '"';
    p = ngx_cpymem(p, key->data, key->len);
    *p++ = '"';
    *p++ = ':';
    p = ngx_cpymem(p, number->data, number->len);

    if (wrap) {
        *p++ = '}';
    }

    text.data = rq->insert;
    text.len = p - rq->insert;

    if (f->seen && wrap) {
        ngx_http_clawd_request_replace(rq, parent, &text);
        return;
    }

    if (!f->empty) {
        text.data[text.len++] = ',';
    }

    ngx_http_clawd_request_insert(rq, f->seen ? parent
                                              : NGX_HTTP_CLAWD_RQ_ROOT,
                                  &text);
}


static void
ngx_http_clawd_request_replace(ngx_http_clawd_request_t *rq, ngx_uint_t node,
    ngx_str_t *text)
{
    ngx_http_clawd_request_edit(rq, rq->fields[node].start,
                                rq->fields[node].end, text);
}


/* as the first member of an object */

static void
ngx_http_clawd_request_insert(ngx_http_clawd_request_t *rq, ngx_uint_t node,
    ngx_str_t *text)
{
    off_t  start;

    start = rq->fields[node].start + 1;

    ngx_http_clawd_request_edit(rq, start, start, text);
}


/* keeps the edits sorted; insertions at one place stay in the order made */

static void
ngx_http_clawd_request_edit(ngx_http_clawd_request_t *rq, off_t start,
    off_t end, ngx_str_t *text)
{
    ngx_http_clawd_edit_t  *e;

    e = &rq->edits[rq->nedits++];

    while (e > rq->edits && e[-1].start > start) {
        *e = e[-1];
        e--;
    }

    e->start = start;
    e->end = end;
    e->text = *text;
}


off_t
ngx_http_clawd_request_length(ngx_http_clawd_request_t *rq, off_t len)
{
    ngx_uint_t              i;
    ngx_http_clawd_edit_t  *e;

    for (i = 0; i < rq->nedits; i++) {
        e = &rq->edits[i];
        len += (off_t) e->text.len - (e->end - e->start);
    }

    return len;
}


u_char *
ngx_http_clawd_request_copy(ngx_http_clawd_request_t *rq, u_char *dst,
    u_char *src, u_char *last, off_t offset, ngx_uint_t *edit)
{
    off_t                   end;
    ngx_http_clawd_edit_t  *e;

    end = offset + (last - src);

    for ( /* void */ ; *edit < rq->nedits; (*edit)++) {
        e = &rq->edits[*edit];

        if (e->start >= end) {
            break;
        }

        /* else an earlier piece began it, and this one is only cut */

        if (e->start >= offset) {
            dst = ngx_cpymem(dst, src, e->start - offset);
            dst = ngx_cpymem(dst, e->text.data, e->text.len);
        }

        if (e->end > end) {
            return dst;
        }

        src += e->end - offset;
        offset = e->end;
    }

    return ngx_cpymem(dst, src, last - src);
}
