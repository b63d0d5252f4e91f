/*
 * Copyright (C) clawd authors
 *
 * Answers as lines.  Of the input the first byte chooses the format, the
 * second the cuts; the rest is the body.  Beside what holds of every answer,
 * a line that was added behind must be read as it is.
 */

#include "fuzz_answer.h"


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char           *body;
    answer_result_t   alone, more;

    static const u_char  behind[] = "\n{\"error\":\"late\"}\n";

    if (size < 2) {
        return 0;
    }

    fuzz_answer(&alone, data[0] % 6 + 1, NGX_HTTP_CLAWD_FRAMING_NDJSON,
                data[1], data + 2, size - 2);

    body = malloc(size + sizeof(behind));
    fuzz_assert(body);

    memcpy(body, data + 2, size - 2);
    memcpy(body + size - 2, behind, sizeof(behind) - 1);

    fuzz_answer(&more, data[0] % 6 + 1, NGX_HTTP_CLAWD_FRAMING_NDJSON,
                data[1], body, size - 2 + sizeof(behind) - 1);

    free(body);

    fuzz_assert(more.facts.error && more.facts.told);
    fuzz_assert(more.facts.events >= alone.facts.events + 1);
    fuzz_assert(more.facts.deltas == alone.facts.deltas);
    fuzz_assert(more.facts.text_bytes == alone.facts.text_bytes);
    fuzz_assert(more.end == NGX_HTTP_CLAWD_END_BOUNDARY);

    return 0;
}
