/*
 * Copyright (C) clawd authors
 *
 * Model names: one form for all spellings that reach the same model.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_model.h"


/* the name lies in memory of its own length; NULL as sent: refused */

static void
check_len(const char *name, size_t len, const char *sent, const char *label,
    unsigned cloud)
{
    u_char                  *copy;
    ngx_int_t                rc;
    ngx_str_t                s;
    ngx_http_clawd_model_t   m;

    copy = test_malloc(len + (len == 0));
    memcpy(copy, name, len);

    s.data = copy;
    s.len = len;

    memset(&m, 0xa5, sizeof(ngx_http_clawd_model_t));

    rc = ngx_http_clawd_model_parse(&m, &s);

    if (sent == NULL) {

        if (rc != NGX_ERROR) {
            fail_msg("\"%s\" was accepted", name);
        }

        test_free(copy);
        return;
    }

    if (rc != NGX_OK) {
        fail_msg("\"%s\" was refused", name);
    }

    assert_int_equal(m.sent.len, strlen(sent));
    assert_memory_equal(m.sent.data, sent, m.sent.len);
    assert_true(m.sent.data >= copy && m.sent.data + m.sent.len <= copy + len);

    assert_int_equal(m.label.len, strlen(label));
    assert_memory_equal(m.label.data, label, m.label.len);
    assert_ptr_equal(m.label.data, m.buf);

    assert_int_equal(m.cloud, cloud);

    /* what is sent has no shorter form */

    s = m.sent;

    assert_int_equal(ngx_http_clawd_model_parse(&m, &s), NGX_OK);
    assert_int_equal(m.sent.len, s.len);
    assert_int_equal(m.label.len, strlen(label));
    assert_memory_equal(m.label.data, label, m.label.len);

    test_free(copy);
}


static void
check(const char *name, const char *sent, const char *label)
{
    check_len(name, strlen(name), sent, label, 0);
}


static void
refuse(const char *name)
{
    check_len(name, strlen(name), NULL, NULL, 0);
}


static void
test_d69_one_form(void **state)
{
    check("llama3.2", "llama3.2", "llama3.2");
    check("Llama3.2:LATEST", "Llama3.2:LATEST", "llama3.2");
    check("llama3.2:latest", "llama3.2:latest", "llama3.2");
    check("library/llama3.2", "llama3.2", "llama3.2");
    check("Library/llama3.2:1b", "llama3.2:1b", "llama3.2:1b");
    check("registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest",
          "llama3.2");
    check("Registry.Ollama.AI/library/llama3.2", "llama3.2", "llama3.2");
    check("http://registry.ollama.ai/library/llama3.2", "llama3.2",
          "llama3.2");
    check("HTTPS://registry.ollama.ai/library/llama3.2", "llama3.2",
          "llama3.2");
    check("ftp://registry.ollama.ai/library/llama3.2", "llama3.2",
          "llama3.2");
    check("registry.ollama.ai/me/mine:7B", "me/mine:7B", "me/mine:7b");
    check("http://registry.ollama.ai/http://library/x", "x", "x");
    check("registry.ollama.ai/registry.ollama.ai/library/x", "x", "x");
}


static void
test_d69_other_names_stay(void **state)
{
    check("me/library/x", "me/library/x", "me/library/x");
    check("library/me/x", "library/me/x", "library/me/x");
    check("libraryx", "libraryx", "libraryx");
    check("x/y:latest-1", "x/y:latest-1", "x/y:latest-1");
    check("ft:gpt-x:org::id", "ft:gpt-x:org::id", "ft:gpt-x:org::id");
    check("a@b+c_d-e.f", "a@b+c_d-e.f", "a@b+c_d-e.f");
    check("latest", "latest", "latest");
    check("local", "local", "local");
    check("cloud", "cloud", "cloud");
}


static void
test_d70_spaces(void **state)
{
    check(" llama3.2 ", "llama3.2", "llama3.2");
    check("\t\r\n\v\fm\t", "m", "m");
    check("\rm\r", "m", "m");
    refuse("a b");
    refuse("a\tb");
    refuse("m\xc2\xa0");
}


static void
test_d71_cloud(void **state)
{
    check_len("x:cloud", 7, "x:cloud", "x:cloud", 1);
    check_len("X:CLOUD", 7, "X:CLOUD", "x:cloud", 1);
    check_len("x:20b-cloud", 11, "x:20b-cloud", "x:20b-cloud", 1);
    check_len(" library/x:20b-Cloud", 20, "x:20b-Cloud", "x:20b-cloud", 1);

    check("my-cloud", "my-cloud", "my-cloud");
    check("a:b/my-cloud", "a:b/my-cloud", "a:b/my-cloud");
    check("x:cloudy", "x:cloudy", "x:cloudy");
    check("x:cloud-7b", "x:cloud-7b", "x:cloud-7b");
}


static void
test_d72_local(void **state)
{
    check("x:local", "x", "x");
    check("x:LOCAL", "x", "x");
    check("x:7b:local", "x:7b", "x:7b");
    check("library/x:latest:local", "x:latest", "x");

    refuse("x:cloud:local");
    refuse("x:local:cloud");
    refuse("x:20b-cloud:local");
    refuse("x:local:local");
}


static void
test_d73_registry_of_another(void **state)
{
    check("hf.co/org/m:Q4_K_M", "hf.co/org/m:Q4_K_M", "hf.co/org/m:q4_k_m");
}


static void
test_c38_names_of_no_use(void **state)
{
    refuse("");
    refuse("   ");
    refuse("http://");
    refuse("registry.ollama.ai/");
    refuse("library/");
    refuse(":local");
    refuse(":latest");
    refuse("library/:latest");
    refuse("http://registry.ollama.ai/library/:local");
}


static void
test_c46_bytes(void **state)
{
    int   ch;
    char  name[3];

    static const char  allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        "._:/@+-";

    for (ch = 0; ch < 256; ch++) {
        name[0] = 'a';
        name[1] = (char) ch;
        name[2] = 'a';

        if (ch && strchr(allowed, ch)) {
            check_len(name, 3, (char[]) { 'a', (char) ch, 'a', 0 },
                      (char[]) { 'a',
                                 (char) ((ch >= 'A' && ch <= 'Z') ? ch | 0x20
                                                                  : ch),
                                 'a', 0 },
                      0);

        } else {
            check_len(name, 3, NULL, NULL, 0);
        }
    }
}


static void
test_length(void **state)
{
    char  name[NGX_HTTP_CLAWD_MODEL_LEN + 2];
    char  longest[NGX_HTTP_CLAWD_MODEL_LEN + 1];

    memset(name, 'x', sizeof(name));
    memset(longest, 'x', sizeof(longest));

    longest[NGX_HTTP_CLAWD_MODEL_LEN] = '\0';
    check(longest, longest, longest);

    name[NGX_HTTP_CLAWD_MODEL_LEN + 1] = '\0';
    refuse(name);

    name[NGX_HTTP_CLAWD_MODEL_LEN] = ' ';
    check(name, longest, longest);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_d69_one_form),
        cmocka_unit_test(test_d69_other_names_stay),
        cmocka_unit_test(test_d70_spaces),
        cmocka_unit_test(test_d71_cloud),
        cmocka_unit_test(test_d72_local),
        cmocka_unit_test(test_d73_registry_of_another),
        cmocka_unit_test(test_c38_names_of_no_use),
        cmocka_unit_test(test_c46_bytes),
        cmocka_unit_test(test_length)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
