/*
 * Copyright (C) clawd authors
 *
 * Counts.  Of the input the first byte chooses format and framing, the second
 * the cuts; the rest is the body.  A usage that was added as the last word
 * must be the one that counts, whatever the body made of itself; and a body
 * without a digit reports no tokens.
 */

#include "fuzz_answer.h"


/* the last word of each format, and the counts that it names */

typedef struct {
    ngx_http_clawd_format_e    format;
    ngx_http_clawd_framing_e   framing;
    const char                *text;
} fuzz_usage_t;


static const fuzz_usage_t  words[] = {
    { NGX_HTTP_CLAWD_FORMAT_CHAT, NGX_HTTP_CLAWD_FRAMING_SSE,
      "\r\n\r\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":111,"
      "\"completion_tokens\":222}}\n\n" },
    { NGX_HTTP_CLAWD_FORMAT_COMPLETIONS, NGX_HTTP_CLAWD_FRAMING_SSE,
      "\r\n\r\ndata: {\"choices\":[],\"usage\":{\"completion_tokens\":222,"
      "\"prompt_tokens\":111}}\n\n" },
    { NGX_HTTP_CLAWD_FORMAT_RESPONSES, NGX_HTTP_CLAWD_FRAMING_SSE,
      "\r\n\r\ndata: {\"response\":{\"usage\":{\"input_tokens\":111,"
      "\"output_tokens\":222}},\"type\":\"response.completed\"}\n\n" },
    { NGX_HTTP_CLAWD_FORMAT_MESSAGES, NGX_HTTP_CLAWD_FRAMING_SSE,
      "\r\n\r\ndata: {\"type\":\"message_delta\",\"usage\":{"
      "\"input_tokens\":100,\"cache_read_input_tokens\":11,"
      "\"output_tokens\":222}}\n\n" },
    { NGX_HTTP_CLAWD_FORMAT_NATIVE, NGX_HTTP_CLAWD_FRAMING_NDJSON,
      "\n{\"done\":true,\"prompt_eval_count\":111,\"eval_count\":222}\n" },
    { NGX_HTTP_CLAWD_FORMAT_CHAT, NGX_HTTP_CLAWD_FRAMING_JSON, NULL },
    { NGX_HTTP_CLAWD_FORMAT_RESPONSES, NGX_HTTP_CLAWD_FRAMING_JSON, NULL },
    { NGX_HTTP_CLAWD_FORMAT_MESSAGES, NGX_HTTP_CLAWD_FRAMING_JSON, NULL },
    { NGX_HTTP_CLAWD_FORMAT_NATIVE, NGX_HTTP_CLAWD_FRAMING_JSON, NULL },
    { NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS, NGX_HTTP_CLAWD_FRAMING_JSON, NULL }
};


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t               i, len;
    u_char              *body;
    answer_result_t      r;
    const fuzz_usage_t  *w;

    if (size < 2) {
        return 0;
    }

    w = &words[data[0] % (sizeof(words) / sizeof(words[0]))];

    fuzz_answer(&r, w->format, w->framing, data[1], data + 2, size - 2);

    for (i = 2; i < size; i++) {
        if (data[i] >= '0' && data[i] <= '9') {
            break;
        }
    }

    if (i == size) {
        fuzz_assert(!r.facts.usage && r.facts.prompt_tokens == -1
                    && r.facts.completion_tokens == -1);
    }

    fuzz_assert(r.facts.prompt_tokens <= 3 * (int64_t) 0x7fffffff);
    fuzz_assert(r.facts.completion_tokens <= 0x7fffffff);

    if (w->text == NULL) {
        return 0;
    }

    len = strlen(w->text);

    body = malloc(size - 2 + len);
    fuzz_assert(body);

    memcpy(body, data + 2, size - 2);
    memcpy(body + size - 2, w->text, len);

    fuzz_answer(&r, w->format, w->framing, data[1], body, size - 2 + len);

    free(body);

    fuzz_assert(r.facts.usage);
    fuzz_assert(r.facts.prompt_tokens == 111);
    fuzz_assert(r.facts.completion_tokens == 222);

    return 0;
}
