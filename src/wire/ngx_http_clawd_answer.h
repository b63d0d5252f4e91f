/*
 * Copyright (C) clawd authors
 *
 * Reads an upstream's answer on the side: SSE, NDJSON or one JSON value, in
 * the five answer formats, by path, at any split, in bounded memory.  It never
 * changes a byte; what to hold, drop or add is the observer's, told by the
 * states here.
 */

#ifndef _NGX_HTTP_CLAWD_ANSWER_H_INCLUDED_
#define _NGX_HTTP_CLAWD_ANSWER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_api.h"
#include "ngx_http_clawd_json.h"


#pragma GCC visibility push(hidden)


typedef enum {
    NGX_HTTP_CLAWD_FRAMING_NONE = 0,   /* not read at all */
    NGX_HTTP_CLAWD_FRAMING_JSON,
    NGX_HTTP_CLAWD_FRAMING_SSE,
    NGX_HTTP_CLAWD_FRAMING_NDJSON
} ngx_http_clawd_framing_e;


/* what is known of the event (SSE) or line (NDJSON) that is being read */

typedef enum {
    NGX_HTTP_CLAWD_EVENT_NONE = 0,     /* at a boundary: none has begun */
    NGX_HTTP_CLAWD_EVENT_OPEN,         /* begun; "choices" not yet decided */
    NGX_HTTP_CLAWD_EVENT_EMPTY,        /* "choices":[] seen, not yet ended */
    NGX_HTTP_CLAWD_EVENT_PLAIN         /* sure not to be a usage-only event */
} ngx_http_clawd_event_e;


/* how the body ended, in the order of what may follow it */

typedef enum {
    NGX_HTTP_CLAWD_END_BOUNDARY = 0,   /* between events, or nothing came */
    NGX_HTTP_CLAWD_END_COMMENT,        /* only comment bytes are pending */
    NGX_HTTP_CLAWD_END_WHOLE,          /* a whole data event or line lacks
                                          just its terminator */
    NGX_HTTP_CLAWD_END_BROKEN          /* the pending event is cut */
} ngx_http_clawd_end_e;


typedef struct {
    /* what the upstream reported; -1: nothing yet */
    int64_t                   prompt_tokens;
    int64_t                   completion_tokens;

    ngx_uint_t                events;     /* whole events, lines or values */
    ngx_uint_t                deltas;     /* …that carried output */
    uint64_t                  text_bytes; /* raw bytes of all output */

    uint16_t                  model_len;
    uint16_t                  finish_len;
    u_char                    model[128]; /* first one; printable ASCII */
    u_char                    finish[32]; /* last non-null one, likewise */

    unsigned                  usage:1;    /* a usable usage was read */
    unsigned                  complete:1; /* the generation's end was seen */
    unsigned                  error:1;    /* an in-band error was read, or
                                             the swallowed one of "model":"" */
    unsigned                  told:1;     /* …and the client can see it */
    unsigned                  anomaly:1;  /* junk counts, unreadable event */
} ngx_http_clawd_facts_t;


typedef struct {
    ngx_http_clawd_facts_t    facts;

    ngx_http_clawd_format_e   format;
    ngx_http_clawd_framing_e  framing;
    ngx_http_clawd_event_e    event;

    unsigned                  usage_only:1; /* of the event that just ended:
                                               "choices":[] and a usage */
    unsigned                  done:1;       /* …it was data: [DONE] */

    /* private: the event or line that is being read */

    unsigned                  ended:1;     /* JSON: the one value has ended */
    unsigned                  begun:1;     /* js holds its JSON */
    unsigned                  whole:1;     /* …whose root value ended */
    unsigned                  junk:1;      /* …or can't be read */
    unsigned                  data:1;      /* SSE: a data field came */
    unsigned                  other:1;     /* SSE: another field came */
    unsigned                  crlf:1;      /* SSE: the last line ended so */
    unsigned                  skip_lf:1;   /* …or in a CR; its LF may come */
    unsigned                  held_cr:1;   /* …whose LF is waited for */
    unsigned                  alarm:1;     /* SSE: "event: error" */
    unsigned                  tool:1;
    unsigned                  usage:1;     /* a usage object */
    unsigned                  final:1;     /* facts have the last usage */
    unsigned                  nameless:1;  /* "model":"" */
    unsigned                  failed:1;    /* an error that is not null */
    unsigned                  done_true:1;
    unsigned                  success:1;

    u_char                    mark;        /* bytes of the byte order mark */
    u_char                    line;        /* SSE: within what of a line */
    u_char                    field_len;
    u_char                    head_len;
    u_char                    type;        /* of an event, by its name */
    u_char                    field[12];   /* SSE: its name, an event's */
    u_char                    head[8];     /* SSE: data that is not JSON */

    uint16_t                  reason_len;
    u_char                    reason[32];  /* finish reason or status */

    int64_t                   prompt;      /* -1: not in this event */
    int64_t                   completion;
    int64_t                   cached[2];
    uint64_t                  text;

    ngx_http_clawd_json_t     js;
} ngx_http_clawd_answer_t;


/*
 * Prepares the reading of one answer.  Cannot fail; a later call starts afresh.
 */
void ngx_http_clawd_answer_init(ngx_http_clawd_answer_t *a,
    ngx_http_clawd_format_e format, ngx_http_clawd_framing_e framing);

/*
 * Reads *pos .. last and moves *pos.  NGX_OK: an event or line ended at *pos
 * (its terminator included); usage_only and done speak of it; call again for
 * the rest.  A comment or blank line between events ends like an event.
 * NGX_AGAIN: all bytes are consumed, event tells what is pending.  A malformed
 * or too deep event sets anomaly and is passed over; framing JSON that is
 * malformed is not read further.  Never fails.
 */
ngx_int_t ngx_http_clawd_answer_read(ngx_http_clawd_answer_t *a, u_char **pos,
    u_char *last);

/*
 * Tells that the body ended: reads what is pending as if terminated and says
 * how it ended.  To be called once; facts are final then.
 */
ngx_http_clawd_end_e ngx_http_clawd_answer_end(ngx_http_clawd_answer_t *a);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_ANSWER_H_INCLUDED_ */
