# What is changed in a body, textually, and that the rest is left alone;
# wire.md 2.14, C 60-68.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;
use Clawd::Client;

no_shuffle();
run_tests();


sub capped {
    return <<'E';
location / {
    clawd_max_tokens 100;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
E
}


# Pairs of a body and the one that goes upstream in its place.

sub becomes {
    my ($token, $uri, @pairs) = @_;

    while (my ($body, $sent) = splice @pairs, 0, 2) {
        my $client = client();
        my $seen = () = upstream()->requests;

        $client->request('POST', $uri, $body,
                         Authorization => "Bearer $token",
                         Connection => 'close');
        Test::More::like($client->read_all // '', qr{\AHTTP/1\.1 200 },
                         "$uri $body passes");

        my @requests = upstream()->requests;
        my $length = $requests[-1]{headers}{'content-length'};

        Test::More::is(@requests - $seen, 1, "$body: one request upstream");
        Test::More::is($requests[-1]{body}, $sent, "$uri $body");
        Test::More::is($length, length $sent, "$body: its length");
    }
}

sub same {
    my ($token, $uri, @bodies) = @_;
    becomes($token, $uri, map { $_, $_ } @bodies);
}

__DATA__

=== 2.14: a stream asks for its usage
--- init
main::becomes('sk-alice', $_,
    '{"model":"m","stream":true}' =>
    '{"stream_options":{"include_usage":true},"model":"m","stream":true}',
    ' { "stream" : true , "model" : "m" } ' =>
    ' {"stream_options":{"include_usage":true}, "stream" : true , '
    . '"model" : "m" } ',
    '{"model":"m","stream":true,"stream_options":{}}' =>
    '{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
    '{"model":"m","stream":true,"stream_options": { } }' =>
    '{"model":"m","stream":true,"stream_options": {"include_usage":true } }',
    '{"stream_options":{"x":[1,{"y":"}"}]},"model":"m","stream":true}' =>
    '{"stream_options":{"include_usage":true,"x":[1,{"y":"}"}]},"model":"m",'
    . '"stream":true}',
    '{"model":"m","stream":true,"stream_options":{"include_usage":false}}' =>
    '{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
    '{"model":"m","stream":true,"stream_options":{"include_usage":null}}' =>
    '{"model":"m","stream":true,"stream_options":{"include_usage":true}}')
    for qw(/v1/chat/completions /v1/completions);
--- request
GET /v1/models
--- error_code: 200



=== C61: null options of a stream
--- init
main::becomes('sk-alice', '/v1/chat/completions',
    '{"model":"m","stream_options":null,"stream":true}' =>
    '{"model":"m","stream_options":{"include_usage":true},"stream":true}');
--- request
GET /v1/models
--- error_code: 200



=== 2.14: who asks already is left alone
--- init
main::same('sk-alice', '/v1/chat/completions',
    '{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
    '{"stream_options":{"a":1,"include_usage":true},"stream":true,'
    . '"model":"m"}');
--- request
GET /v1/models
--- error_code: 200



=== C60: what does not stream is left alone
--- init
main::same('sk-alice', '/v1/chat/completions',
    '{"model":"m"}', '{"model":"m","stream":false}',
    '{"model":"m","stream":null}', '{"model":"m","stream_options":{}}',
    '{"model":"m","stream_options":null}',
    '{"model":"m","stream_options":{"include_usage":false}}',
    '{"model":"m","messages":[{"role":"user","content":"\"stream\":true"}]}',
    '{"model":"m","x":{"stream":true}}');
--- request
GET /v1/models
--- error_code: 200



=== 2.14: formats that tell their usage anyway
--- init
main::same('sk-alice', $_, '{"model":"m","stream":true}')
    for qw(/v1/responses /v1/messages /api/chat /api/generate);
--- request
GET /v1/models
--- error_code: 200



=== 2.14: everything else keeps its bytes
--- init
main::becomes('sk-alice', '/v1/chat/completions',
    "{\"seed\":18446744073709551615,\"z\":1.10e+05,\"s\":\"\\u2028\\/\xff\","
    . "\n\t\"stream\":true,\"a\":1,\"a\":2,\"model\":\"m\"}\r\n" =>
    "{\"stream_options\":{\"include_usage\":true},"
    . "\"seed\":18446744073709551615,\"z\":1.10e+05,\"s\":\"\\u2028\\/\xff\","
    . "\n\t\"stream\":true,\"a\":1,\"a\":2,\"model\":\"m\"}\r\n");
--- request
GET /v1/models
--- error_code: 200



=== C62: rendering instead of generating
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"m\",\"_debug_render_only\":$_}" }
     'true', '1', '"x"', '{}']
--- refused: openai 403 parameter_not_allowed _debug_render_only
--- message: a parameter is not allowed for this token: _debug_render_only



=== C62: in the native API
--- request eval
[map { "POST $_\n{\"model\":\"m\",\"_debug_render_only\":true}" }
     '/api/chat', '/api/generate']
--- refused: ollama 403



=== C62: not asked for, or by an admin
--- init
main::same('sk-alice', '/api/chat', '{"model":"m","_debug_render_only":false}',
           '{"model":"m","_debug_render_only":null}');
main::same('sk-root', '/api/chat', '{"model":"m","_debug_render_only":true}');
--- request
GET /v1/models
--- error_code: 200



=== C63: how long a model stays is not a user's to say
--- init
main::becomes('sk-alice', $_,
    '{"model":"m","keep_alive":-1}' => '{"model":"m","keep_alive":null}',
    '{"keep_alive":0,"model":"m"}' => '{"keep_alive":null,"model":"m"}',
    '{"model":"m","keep_alive": "24h" }' =>
    '{"model":"m","keep_alive": null }',
    '{"model":"m","keep_alive":{"a":[1]},"b":1}' =>
    '{"model":"m","keep_alive":null,"b":1}')
    for qw(/api/chat /api/generate /api/embed /api/embeddings);
--- request
GET /v1/models
--- error_code: 200



=== C63: the admin may
--- init
main::same('sk-root', '/api/generate', '{"model":"m","keep_alive":0}',
           '{"model":"m","keep_alive":-1,"options":{"num_ctx":4096}}');
--- request
GET /v1/models
--- error_code: 200



=== C64: nor what makes the model load afresh
--- init
main::becomes('sk-alice', '/api/chat',
    '{"model":"m","options":{"num_ctx":131072,"temperature":0.5}}' =>
    '{"model":"m","options":{"num_ctx":null,"temperature":0.5}}',
    map({ ("{\"model\":\"m\",\"options\":{\"$_\":1,\"seed\":7}}" =>
           "{\"model\":\"m\",\"options\":{\"$_\":null,\"seed\":7}}") }
        qw(num_gpu num_batch main_gpu use_mmap num_thread
           draft_num_predict)),
    '{"options":{"num_gpu":[1,2],"use_mmap":false},"model":"m",'
    . '"keep_alive":5}' =>
    '{"options":{"num_gpu":null,"use_mmap":null},"model":"m",'
    . '"keep_alive":null}');
--- request
GET /v1/models
--- error_code: 200



=== C64: the same words elsewhere mean nothing
--- init
main::same('sk-alice', '/api/chat',
    '{"model":"m","num_ctx":1,"x":{"options":{"num_ctx":2},"keep_alive":3}}',
    '{"model":"m","messages":[{"keep_alive":1,"options":{"num_gpu":1}}]}');
main::same('sk-alice', '/v1/chat/completions',
    '{"model":"m","options":{"num_ctx":1},"keep_alive":5}');
--- request
GET /v1/models
--- error_code: 200



=== C65: the output is capped in the field that the upstream reads, chat
--- config eval
main::capped()
--- init
main::becomes('sk-alice', '/v1/chat/completions',
    '{"model":"m"}' => '{"max_tokens":100,"model":"m"}',
    '{"model":"m","max_tokens":101}' => '{"model":"m","max_tokens":100}',
    '{"model":"m","max_tokens":0}' => '{"model":"m","max_tokens":100}',
    '{"model":"m","max_tokens":-1}' => '{"model":"m","max_tokens":100}',
    '{"model":"m","max_tokens":null}' => '{"model":"m","max_tokens":100}',
    '{"model":"m","max_tokens":99999999999999999999}' =>
    '{"model":"m","max_tokens":100}',
    '{"model":"m","max_tokens":1e9}' => '{"model":"m","max_tokens":100}',
    '{"model":"m","max_tokens":5.5}' => '{"model":"m","max_tokens":100}');
--- request
GET /v1/models
--- error_code: 200



=== C65: who asks for less gets it
--- config eval
main::capped()
--- init
main::same('sk-alice', '/v1/chat/completions',
    '{"model":"m","max_tokens":100}', '{"model":"m","max_tokens":1}',
    '{"max_tokens" : 99 ,"model":"m"}');
main::same('sk-alice', '/v1/completions', '{"model":"m","max_tokens":7}');
main::same('sk-alice', '/v1/messages', '{"model":"m","max_tokens":7}');
main::same('sk-alice', '/v1/responses', '{"model":"m","max_output_tokens":7}');
main::same('sk-alice', '/api/chat',
           '{"model":"m","options":{"num_predict":7}}');
--- request
GET /v1/models
--- error_code: 200



=== C65: max_completion_tokens, which not every upstream reads
--- config eval
main::capped()
--- init
main::becomes('sk-alice', '/v1/chat/completions',
    '{"model":"m","max_completion_tokens":10}' =>
    '{"max_tokens":10,"model":"m","max_completion_tokens":10}',
    '{"model":"m","max_completion_tokens":1000}' =>
    '{"max_tokens":100,"model":"m","max_completion_tokens":100}',
    '{"model":"m","max_completion_tokens":0}' =>
    '{"max_tokens":100,"model":"m","max_completion_tokens":100}',
    '{"model":"m","max_completion_tokens":-1,"max_tokens":20}' =>
    '{"model":"m","max_completion_tokens":20,"max_tokens":20}',
    '{"max_tokens":50,"model":"m","max_completion_tokens":10}' =>
    '{"max_tokens":10,"model":"m","max_completion_tokens":10}',
    '{"max_tokens":0,"max_completion_tokens":1000,"model":"m"}' =>
    '{"max_tokens":100,"max_completion_tokens":100,"model":"m"}');
--- request
GET /v1/models
--- error_code: 200



=== C65: the other formats of /v1
--- config eval
main::capped()
--- init
main::becomes('sk-alice', '/v1/completions',
    '{"model":"m","max_tokens":5000}' => '{"model":"m","max_tokens":100}',
    '{"model":"m"}' => '{"max_tokens":100,"model":"m"}');
main::becomes('sk-alice', '/v1/messages',
    '{"model":"m","max_tokens":4096}' => '{"model":"m","max_tokens":100}',
    '{"model":"m"}' => '{"max_tokens":100,"model":"m"}');
main::becomes('sk-alice', '/v1/responses',
    '{"model":"m","max_output_tokens":5000}' =>
    '{"model":"m","max_output_tokens":100}',
    '{"model":"m"}' => '{"max_output_tokens":100,"model":"m"}');
--- request
GET /v1/models
--- error_code: 200



=== C65: the native API
--- config eval
main::capped()
--- init
main::becomes('sk-alice', $_,
    '{"model":"m"}' => '{"options":{"num_predict":100},"model":"m"}',
    '{"model":"m","options":{}}' =>
    '{"model":"m","options":{"num_predict":100}}',
    '{"model":"m","options": { } }' =>
    '{"model":"m","options": {"num_predict":100 } }',
    '{"model":"m","options":null}' =>
    '{"model":"m","options":{"num_predict":100}}',
    '{"model":"m","options":{"seed":1}}' =>
    '{"model":"m","options":{"num_predict":100,"seed":1}}',
    '{"model":"m","options":{"seed":1,"num_predict":-1}}' =>
    '{"model":"m","options":{"seed":1,"num_predict":100}}',
    '{"model":"m","options":{"num_predict":-2}}' =>
    '{"model":"m","options":{"num_predict":100}}',
    '{"model":"m","options":{"num_predict":0}}' =>
    '{"model":"m","options":{"num_predict":100}}',
    '{"model":"m","options":{"num_predict":null}}' =>
    '{"model":"m","options":{"num_predict":100}}',
    '{"model":"m","options":{"num_predict":1000,"num_ctx":8}}' =>
    '{"model":"m","options":{"num_predict":100,"num_ctx":null}}')
    for qw(/api/chat /api/generate);
--- request
GET /v1/models
--- error_code: 200



=== C65: embeddings have no output to cap
--- config eval
main::capped()
--- init
main::same('sk-alice', $_, '{"model":"m","input":"x"}')
    for qw(/v1/embeddings /api/embed /api/embeddings);
--- request
GET /v1/models
--- error_code: 200



=== C65: the cap holds for admins too
--- config eval
main::capped()
--- init
main::becomes('sk-root', '/api/chat',
    '{"model":"m","options":{"num_predict":-1},"keep_alive":-1}' =>
    '{"model":"m","options":{"num_predict":100},"keep_alive":-1}');
--- request
GET /v1/models
--- error_code: 200



=== C65: several edits at once
--- config eval
main::capped()
--- init
main::becomes('sk-alice', '/v1/chat/completions',
    '{"model":" library/m ","stream":true}' =>
    '{"stream_options":{"include_usage":true},"max_tokens":100,"model":"m",'
    . '"stream":true}',
    '{"stream":true,"max_tokens":500,"model":"m:local","stream_options":null,'
    . '"max_completion_tokens":300}' =>
    '{"stream":true,"max_tokens":100,"model":"m",'
    . '"stream_options":{"include_usage":true},"max_completion_tokens":100}');
main::becomes('sk-alice', '/api/chat',
    '{"keep_alive":-1,"model":"library/m","options":{"num_ctx":9,'
    . '"num_predict":-1,"num_gpu":0}}' =>
    '{"keep_alive":null,"model":"m","options":{"num_ctx":null,'
    . '"num_predict":100,"num_gpu":null}}');
--- request
GET /v1/models
--- error_code: 200



=== C65: chunks of an edited body become a length
--- config eval
main::capped()
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
. "\r\nAuthorization: Bearer sk-alice\r\nConnection: close\r\n\r\n"
. "5\r\n{\"mod\r\n8\r\nel\":\"m\"}\r\n0\r\n\r\n"
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"max_tokens":100,"model":"m"}
--- upstream_request_like: ^Content-Length: 30\r$
--- upstream_request_unlike: (?i)^transfer-encoding



=== C65: no cap below one
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location /v1 {
    clawd_max_tokens 100;
    location /v1/messages {
        clawd_max_tokens off;
        clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    }
    location /v1/completions {
        clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
    }
}
--- init
main::same('sk-alice', '/v1/messages', '{"model":"m","max_tokens":5000}');
main::becomes('sk-alice', '/v1/completions',
    '{"model":"m","max_tokens":5000}' => '{"model":"m","max_tokens":100}');
--- request
GET /api/tags
--- error_code: 200



=== C66: prompts are the caller's own
--- init
main::same('sk-alice', '/api/generate',
    '{"model":"m","raw":true,"template":"{{x}}","system":"s","context":[1]}');
--- request
GET /v1/models
--- error_code: 200



=== C67: tools that the upstream would run by itself
--- request eval
[map { "POST /v1/responses\n{\"model\":\"m\",\"tools\":[$_]}" }
     '{"type":"web_search"}', '{"type":"web_search_preview"}',
     '{"type":"function","name":"f"},{"x":1,"type":"web_search"}',
     '{"type":"WEB_search"}', '{"type":"we\u0062_search"}']
--- refused: openai 403 parameter_not_allowed tools



=== C67: Anthropic
--- request
POST /v1/messages
{"model":"m","max_tokens":5,"tools":[{"type":"web_search_20250305","name":"web_search"}]}
--- refused: anthropic 403
--- message: a parameter is not allowed for this token: tools



=== C67: tools of the caller's own, and an admin
--- init
main::same('sk-alice', '/v1/messages',
    '{"model":"m","tools":[{"name":"web_search","input_schema":{"type":"x"}}]}',
    '{"model":"m","tools":[{"type":"custom","name":"f"}]}');
main::same('sk-alice', '/v1/responses',
    '{"model":"m","tools":[{"type":"function","parameters":'
    . '{"type":"web_search"}}]}', '{"model":"m","tools":[]}');
main::same('sk-root', '/v1/responses',
    '{"model":"m","tools":[{"type":"web_search"}]}');
--- request
GET /v1/models
--- error_code: 200



=== C68: a chat without messages is metered with nothing
--- init
main::same('sk-alice', '/api/chat', '{"model":"m","messages":[]}');
--- request
GET /v1/models
--- error_code: 200



=== the usage event that was asked for here is not the caller's to see
--- request
POST /v1/chat/completions
{"model":"m","stream":true}
--- response_body eval
CORE::join '', map { "data: $_\n\n" }
    '{"model":"m","choices":[{"index":0,"delta":{"content":"hi"},'
    . '"finish_reason":null}]}',
    '{"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    '[DONE]'
--- upstream_body_like: "include_usage":true



=== the usage event that the caller asked for is
--- request
POST /v1/chat/completions
{"model":"m","stream":true,"stream_options":{"include_usage":true}}
--- response_body_like: "choices":\[\],"usage":\{"prompt_tokens":3
