/*
 * Copyright (C) clawd authors
 *
 * Endpoints: what is known, to whom, by which methods; families; raw paths.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_api.h"


#define GET     NGX_HTTP_CLAWD_API_GET
#define HEAD    NGX_HTTP_CLAWD_API_HEAD
#define POST    NGX_HTTP_CLAWD_API_POST
#define DELETE  NGX_HTTP_CLAWD_API_DELETE

#define INFER   NGX_HTTP_CLAWD_CLASS_INFER
#define LIST    NGX_HTTP_CLAWD_CLASS_LIST
#define ADMIN   NGX_HTTP_CLAWD_CLASS_ADMIN

#define FORMAT(name)  NGX_HTTP_CLAWD_FORMAT_##name


static const ngx_http_clawd_api_t *
find(const char *uri)
{
    u_char                      *copy;
    ngx_str_t                    s;
    const ngx_http_clawd_api_t  *api;

    s.len = strlen(uri);

    copy = test_malloc(s.len + (s.len == 0));
    memcpy(copy, uri, s.len);
    s.data = copy;

    api = ngx_http_clawd_api_find(&s);

    test_free(copy);

    return api;
}


static void
check(const char *uri, ngx_uint_t methods, ngx_http_clawd_class_e class,
    ngx_http_clawd_format_e format, const char *allow)
{
    const ngx_http_clawd_api_t  *api;

    api = find(uri);

    if (api == NULL) {
        fail_msg("%s is not known", uri);
    }

    assert_int_equal(api->methods, methods);
    assert_int_equal(api->class, class);
    assert_int_equal(api->format, format);
    assert_int_equal(api->allow.len, strlen(allow));
    assert_memory_equal(api->allow.data, allow, api->allow.len);
}


static void
test_inference(void **state)
{
    check("/v1/chat/completions", POST, INFER, FORMAT(CHAT), "POST");
    check("/v1/completions", POST, INFER, FORMAT(COMPLETIONS), "POST");
    check("/v1/embeddings", POST, INFER, FORMAT(EMBEDDINGS), "POST");
    check("/v1/responses", POST, INFER, FORMAT(RESPONSES), "POST");
    check("/v1/messages", POST, INFER, FORMAT(MESSAGES), "POST");
    check("/api/chat", POST, INFER, FORMAT(NATIVE), "POST");
    check("/api/generate", POST, INFER, FORMAT(NATIVE), "POST");
    check("/api/embed", POST, INFER, FORMAT(EMBEDDINGS), "POST");
    check("/api/embeddings", POST, INFER, FORMAT(EMBEDDINGS), "POST");
}


static void
test_lists(void **state)
{
    check("/v1/models", GET, LIST, FORMAT(NONE), "GET");
    check("/v1/models/llama3.2:1b", GET, LIST, FORMAT(NONE), "GET");
    check("/api/tags", GET | HEAD, LIST, FORMAT(NONE), "GET, HEAD");
    check("/api/ps", GET, LIST, FORMAT(NONE), "GET");
    check("/api/version", GET | HEAD, LIST, FORMAT(NONE), "GET, HEAD");
    check("/", GET | HEAD, LIST, FORMAT(NONE), "GET, HEAD");
}


static void
test_usage(void **state)
{
    check("/v1/usage", GET | HEAD, NGX_HTTP_CLAWD_CLASS_USAGE, FORMAT(NONE),
          "GET, HEAD");

    assert_null(find("/v1/usage/"));
    assert_null(find("/v1/usages"));
    assert_null(find("/api/usage"));
}


static void
test_admin(void **state)
{
    check("/api/show", POST, ADMIN, FORMAT(NONE), "POST");
    check("/api/pull", POST, ADMIN, FORMAT(NATIVE), "POST");
    check("/api/push", POST, ADMIN, FORMAT(NATIVE), "POST");
    check("/api/create", POST, ADMIN, FORMAT(NATIVE), "POST");
    check("/api/blobs/sha256:00", POST | HEAD, ADMIN, FORMAT(NONE),
          "POST, HEAD");
    check("/api/copy", POST, ADMIN, FORMAT(NONE), "POST");
    check("/api/delete", DELETE, ADMIN, FORMAT(NONE), "DELETE");
    check("/api/status", GET, ADMIN, FORMAT(NONE), "GET");
    check("/api/experimental/model-recommendations", GET, ADMIN, FORMAT(NONE),
          "GET");
}


static void
test_b27_everything_else(void **state)
{
    size_t  i;

    static const char  *uris[] = {
        "", "//", "/v1", "/v1/", "/api", "/api/", "/api/me", "/api/signout",
        "/api/user/keys/x", "/api/experimental/web_search",
        "/api/experimental/web_fetch", "/debug/pprof/", "/metrics",
        "/v1/audio/transcriptions", "/v1/files", "/v1/images/generations",
        "/v1/batches", "/v1/messages/count_tokens", "/v1/responses/x",
        "/v1/chat", "/v1/chat/completions/x", "/v1/models/", "/v1/models/a/b",
        "/api/blobs/", "/api/blobs/a/b", "/api/blobs", "/v1/model",
        "/api/tag", "/api/tagsx", "/api/tags;x", "x/api/tags", "*",
        "/v2/chat/completions"
    };

    for (i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
        if (find(uris[i])) {
            fail_msg("%s is known", uris[i]);
        }
    }
}


static void
test_b21_case(void **state)
{
    assert_null(find("/API/chat"));
    assert_null(find("/api/Chat"));
    assert_null(find("/V1/models"));
    assert_null(find("/V1/models/x"));
}


static void
test_b22_trailing_slash(void **state)
{
    assert_null(find("/api/chat/"));
    assert_null(find("/api/tags/"));
    assert_null(find("/v1/models/x/"));
}


static void
family(const char *uri, ngx_http_clawd_family_e expected)
{
    u_char     *copy;
    ngx_str_t   s;

    s.len = strlen(uri);

    copy = test_malloc(s.len + (s.len == 0));
    memcpy(copy, uri, s.len);
    s.data = copy;

    assert_int_equal(ngx_http_clawd_api_family(&s), expected);

    test_free(copy);
}


static void
test_family(void **state)
{
    family("/v1/messages", NGX_HTTP_CLAWD_ANTHROPIC);
    family("/v1/messages/count_tokens", NGX_HTTP_CLAWD_ANTHROPIC);
    family("/v1/message", NGX_HTTP_CLAWD_OPENAI);
    family("/v1/chat/completions", NGX_HTTP_CLAWD_OPENAI);
    family("/v1/nothing", NGX_HTTP_CLAWD_OPENAI);
    family("/api/chat", NGX_HTTP_CLAWD_OLLAMA);
    family("/api/nothing", NGX_HTTP_CLAWD_OLLAMA);
    family("/api/", NGX_HTTP_CLAWD_OLLAMA);
    family("/api", NGX_HTTP_CLAWD_OPENAI);
    family("/", NGX_HTTP_CLAWD_OPENAI);
    family("", NGX_HTTP_CLAWD_OPENAI);
}


static void
raw(const char *path, size_t len, ngx_int_t expected)
{
    u_char  *copy;

    copy = test_malloc(len + (len == 0));
    memcpy(copy, path, len);

    if (ngx_http_clawd_api_raw_path(copy, copy + len) != expected) {
        fail_msg("%s", path);
    }

    test_free(copy);
}


static void
test_b20_raw_paths(void **state)
{
    size_t  i;

    static const char  *good[] = {
        "/", "/api/tags", "/%61pi/delete", "//api/./tags/../x",
        "/v1/models/llama3.2%3A1b", "/%c3%A9", "/a+b~c!*'(),=@&$", "/a%20b",
        "/%6F%6f%AF%af"
    };
    static const char  *bad[] = {
        "/api%2Ftags", "/api%2ftags", "/api%5ctags", "/api%5Ctags",
        "/api\\tags", "/api/tags%00", "/api/tags%0a", "/api/tags%1F",
        "/api/tags%7f", "/api%252Ftags", "/api/%25", "/api/tags;x",
        "/api/tags%3bx", "/api/%", "/api/%2", "/api/%zz", "/api/%0g",
        "/api/\x01", "/api/\x7f"
    };

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        raw(good[i], strlen(good[i]), NGX_OK);
    }

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        raw(bad[i], strlen(bad[i]), NGX_DECLINED);
    }

    raw("/api\0x", 6, NGX_DECLINED);
    raw("", 0, NGX_OK);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_inference),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_admin),
        cmocka_unit_test(test_b27_everything_else),
        cmocka_unit_test(test_b21_case),
        cmocka_unit_test(test_b22_trailing_slash),
        cmocka_unit_test(test_family),
        cmocka_unit_test(test_b20_raw_paths)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
