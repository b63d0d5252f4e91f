# Bodies: what is no JSON object, ambiguous, too deep, too large or encoded is
# refused before the upstream hears of it; wire.md C 33-59.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;
use Clawd::Client;

gate_default(more_headers => "Authorization: Bearer sk-alice\n"
                             . "Content-Type: application/json");
no_shuffle();
run_tests();


# A request whose body never comes is answered before "100 Continue".

sub refused_before_100 {
    my ($status, @headers) = @_;
    my $client = client();

    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  . "Content-Length: 50000\r\nExpect: 100-continue\r\n",
                  map({ "$_\r\n" } @headers), "\r\n");

    Test::More::like($client->read_until(qr/\r\n\r\n/) // '',
                     qr{\AHTTP/1\.1 $status }, "$status, and no 100 first");
    $client->close;
}


sub continued {
    my $client = client();

    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  . "Authorization: Bearer sk-alice\r\nContent-Length: 13\r\n"
                  . "Connection: close\r\nExpect: 100-continue\r\n\r\n");

    Test::More::like($client->read_until(qr/\r\n\r\n/) // '',
                     qr{\AHTTP/1\.1 100 }, '100 once the body is wanted');

    $client->send('{"model":"m"}');
    Test::More::like($client->read_all // '', qr{\AHTTP/1\.1 200 }, 'and then the answer');
}


# A body byte by byte, and one in two pieces at each place.

sub dribble {
    my $body = '{"model":"m","stream":false,"x":"\u00e9\\\\"}';

    my $client = client();
    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  . "Authorization: Bearer sk-alice\r\n"
                  . 'Content-Length: ' . length($body) . "\r\n\r\n");
    $client->send($_) for split //, $body;

    Test::More::like($client->read_until(qr/\r\n\r\n/) // '',
                     qr{\AHTTP/1\.1 200 }, 'a body byte by byte');
    $client->close;

    Test::More::is((upstream()->requests)[0]{body}, $body,
                   'it arrives as it was');
}


# The client leaves in the middle of its body: the upstream hears nothing.

sub abandoned {
    my $client = client();

    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  . "Authorization: Bearer sk-alice\r\n"
                  . "Content-Length: 1000\r\n\r\n" . '{"model":');
    Test::More::ok(wait_until(sub { error_log() =~ /clawd gate state: 2/ }),
                   'the body is being read');
    $client->reset;
    Test::More::ok(
        wait_until(sub { error_log() =~ /prematurely closed|close http conn/ }),
        'the client has gone');
    Test::More::is(scalar(upstream()->requests), 0, 'nothing went upstream');
}


# NGINX closes without a word; the log has its status.

sub stalled {
    my $client = client();

    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  . "Authorization: Bearer sk-alice\r\n"
                  . "Content-Length: 1000\r\n\r\n" . '{"model":');
    Test::More::is($client->read_all, '', 'the connection closes');

    my $log = server_root() . '/logs/access.log';
    Test::More::ok(wait_until(sub {
        open my $in, '<', $log or return 0;
        return grep { /"POST .*" 408 / } <$in>;
    }), 'as a 408');
    Test::More::is(scalar(upstream()->requests), 0, 'nothing went upstream');
}


# A body in chunks: whole JSON, and then too much of it.

sub refused_while_read {
    my ($client) = @_;

    $client->request('POST', '/v1/chat/completions', undef,
                     Authorization => 'Bearer sk-alice',
                     'Transfer-Encoding' => 'chunked');
    Test::More::ok(wait_until(sub { error_log() =~ /clawd gate state: 2/ }),
                   'the body is being read');
    $client->send("d\r\n{\"model\":\"m\"}\r\n78\r\n" . ' ' x 120 . "\r\n");
}


# NGINX may read on in a body that it has refused, while an error_page of the
# operator's is on its way: that is for nobody.

sub refused_and_read_on {
    my $client = client();
    my $other = client();

    refused_while_read($client);
    Test::More::ok(upstream()->wait_for(1), 'the page is asked for');
    $client->send("d\r\n{\"model\":\"n\"}\r\n0\r\n\r\n");

    $other->request('GET', '/other');
    Test::More::like($other->read_until(qr/else/) // '', qr/else/,
                     'what came before it is read');

    upstream()->open_gate('page');
    Test::More::like($client->read_until(qr/sorry/) // '', qr/sorry/,
                     'the page');
}


# A part of a body must not be judged for the whole.

sub refused_and_judged_again {
    my $client = client();

    refused_while_read($client);

    Test::More::like($client->read_until(qr/\}\}/) // '',
                     qr{\AHTTP/1\.1 400 .*"code":"incomplete_body"}s,
                     'the next location has no body to judge');
    Test::More::is(scalar(upstream()->requests), 0, 'nothing went upstream');
}


# A body as chunks, whatever their sizes.

sub chunked {
    my (@chunks) = @_;

    my $client = client();
    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  . "Authorization: Bearer sk-alice\r\nConnection: close\r\n"
                  . "Transfer-Encoding: chunked\r\n\r\n",
                  map({ sprintf "%x\r\n%s\r\n", length, $_ } @chunks),
                  "0\r\n\r\n");
    Test::More::like($client->read_all // '', qr{\AHTTP/1\.1 200 },
                     scalar(@chunks) . ' chunks');

    my ($last) = reverse upstream()->requests;
    Test::More::is($last->{body}, join('', @chunks), 'the body is whole');
    Test::More::is($last->{headers}{'content-length'},
                   length join('', @chunks), 'with its length');
    Test::More::is($last->{headers}{'transfer-encoding'}, undef,
                   'and no chunks');
}

__DATA__

=== C33: no body, OpenAI
--- request eval
["POST /v1/chat/completions", "POST /v1/embeddings", "POST /v1/responses"]
--- refused: openai 400 invalid_json
--- message: the request body is empty



=== C33: no body, Anthropic
--- request
POST /v1/messages
--- refused: anthropic 400
--- message: the request body is empty



=== C33: no body, Ollama
--- request eval
["POST /api/chat", "POST /api/generate", "POST /api/embed"]
--- refused: ollama 400
--- message: the request body is empty



=== C33: a length of 0
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
. "Authorization: Bearer sk-alice\r\nConnection: close\r\n\r\n"
--- refused: openai 400 invalid_json
--- message: the request body is empty



=== C33: chunks of nothing
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
. "\r\nAuthorization: Bearer sk-alice\r\nConnection: close\r\n\r\n0\r\n\r\n"
--- refused: openai 400 invalid_json
--- message: the request body is empty



=== C33: white space alone
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
. "Authorization: Bearer sk-alice\r\nConnection: close\r\n\r\n \t\r\n "
--- refused: openai 400 invalid_json
--- message: the request body is empty



=== C34: no JSON
--- request eval
[map { "POST /v1/chat/completions\n$_" }
     'model=m', '{model:"m"}', "{'model':'m'}", '{"model":"m",}',
     '{"model":"m"', '{"model":"m', '{"model":', '{"model"', '{"', '{',
     '{"model":"m" "a":1}', '{"model":"m","a":01}', '{"model":"m","a":+1}',
     '{"model":"m","a":.5}', '{"model":"m","a":1.}', '{"model":"m","a":tru}',
     '{"model":"m","a":NaN}', '{"model":"m","a":"\x"}',
     '{"model":"m","a":"\u12g4"}', '{"model":"m","a":[1,]}',
     '{"model":"m","a":[1}', '{"model":"m","a":{]}', '{,"model":"m"}',
     '{"model":"m"/**/}', '{"model":"m",1:2}', '}', '<xml/>', '"']
--- refused: openai 400 invalid_json



=== C34: no JSON, Anthropic
--- request
POST /v1/messages
{"model":"m","messages":[}
--- refused: anthropic 400



=== C34: no JSON, Ollama
--- request
POST /api/generate
{"model":"m","prompt":
--- refused: ollama 400
--- message: the request body is not a JSON object



=== C35: an array, a string, a number, a boolean
--- request eval
[map { "POST /v1/chat/completions\n$_" }
     '[{"model":"m"}]', '"model"', '5', 'true', '[]', '-1.5e3']
--- refused: openai 400 invalid_json
--- message: the request body is not a JSON object



=== C36: null
--- request
POST /api/chat
null
--- refused: ollama 400
--- message: the request body is not a JSON object



=== C39: a control key twice
--- request eval
[map { "POST /v1/chat/completions\n$_" }
     '{"model":"m","model":"n"}', '{"model":"m","model":"m"}',
     '{"model":"m","a":{"model":"x"},"model":"n"}',
     '{"model":null,"model":"m"}']
--- refused: openai 400 invalid_json model
--- message: a key comes twice or in an ambiguous spelling: model



=== C39: other control keys twice
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"m\",$_}" }
     '"stream":true,"stream":false', '"max_tokens":1,"max_tokens":2',
     '"stream_options":{},"stream_options":null', '"tools":[],"tools":[]',
     '"messages":[],"messages":[]', '"n":1,"n":2',
     '"stream_options":{"include_usage":true,"include_usage":false}']
--- error_code eval
[(400) x 7]
--- response_body_like eval
[("a key comes twice") x 7]
--- upstream_count: 0



=== C39: options twice, and a control of theirs twice
--- request eval
[map { "POST /api/chat\n{\"model\":\"m\",$_}" }
     '"options":{},"options":{}', '"options":{"num_ctx":1,"num_ctx":2}',
     '"options":{"num_predict":1,"num_predict":2}',
     '"keep_alive":1,"keep_alive":2', '"format":"json","format":""',
     '"think":true,"think":false']
--- refused: ollama 400



=== C39: keys that steer nothing may come twice, and do
--- request
POST /v1/chat/completions
{"model":"m","x":1,"x":2,"messages":[{"role":"a","role":"b","model":"c"}]}
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"model":"m","x":1,"x":2,"messages":[{"role":"a","role":"b","model":"c"}]}



=== C40: a control key in another case, with and without the plain one
--- request eval
[map { "POST /v1/chat/completions\n$_" }
     '{"model":"m","MODEL":"n"}', '{"Model":"n","model":"m"}',
     '{"MODEL":"m"}', '{"model":"m","mODEL":"m"}']
--- refused: openai 400 invalid_json model
--- message: a key comes twice or in an ambiguous spelling: model



=== C40: others in another case
--- request eval
[map { "POST /api/chat\n{\"model\":\"m\",$_}" }
     '"Stream":false', '"STREAM":true,"stream":true', '"Keep_Alive":-1',
     '"keep_Alive":0', '"Options":{}', '"options":{"Num_Ctx":99999}',
     '"options":{"NUM_PREDICT":-1}', '"_DEBUG_render_only":true',
     '"Tools":[]']
--- refused: ollama 400



=== C41: letters that fold to ASCII ones
--- request eval
[map { "POST /api/chat\n{\"model\":\"m\",$_}" }
     "\"\xc5\xbftream\":true", '"\u017ftream":true',
     "\"\xe2\x84\xaaeep_alive\":0", '"\u212aeep_alive":0', '"thin\u212a":true',
     "\"stream_option\xc5\xbf\":{}", '"option\u017F":{"num_ctx":1}']
--- refused: ollama 400



=== C42: escapes in a key
--- request eval
[map { "POST /v1/chat/completions\n$_" }
     '{"model":"m","mod\u0065l":"n"}', '{"\u006dodel":"n","model":"m"}',
     '{"model":"m","\u004dODEL":"n"}']
--- refused: openai 400 invalid_json model



=== C42: a key written with escapes alone is the key
--- request
POST /v1/chat/completions
{"mod\u0065l":"m"}
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"mod\u0065l":"m"}



=== C43: anything behind the object
--- request eval
[map { "POST /v1/chat/completions\n$_" }
     '{"model":"m"} trailing', '{"model":"m"}{"model":"n"}',
     '{"model":"m"},', '{"model":"m"}]', '{"model":"m"}}',
     "{\"model\":\"m\"}\0", "{\"model\":\"m\"}\n{\"model\":\"n\"}"]
--- refused: openai 400 invalid_json
--- message: the request body goes on after its JSON object



=== C43: white space around it is none
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 23\r\n"
. "Authorization: Bearer sk-alice\r\nConnection: close\r\n\r\n"
. " \r\n\t{ \"model\" : \"m\" }\r\n"
--- error_code: 200
--- upstream_count: 1
--- upstream_body eval
" \r\n\t{ \"model\" : \"m\" }\r\n"



=== C44: a byte order mark
--- request eval
"POST /v1/chat/completions\n\xef\xbb\xbf{\"model\":\"m\"}"
--- refused: openai 400 invalid_json



=== C44: UTF-16
--- request eval
"POST /v1/chat/completions\n\xff\xfe{\0\"\0m\0"
--- refused: openai 400 invalid_json



=== C45: some nesting is fine
--- request eval
"POST /v1/chat/completions\n" . '{"model":"m","a":' . '[' x 40 . ']' x 40 . '}'
--- error_code: 200
--- upstream_count: 1



=== C45: nesting without end
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\",\"a\":" . '[' x 5000 . ']' x 5000
 . '}',
 "POST /v1/chat/completions\n{\"model\":\"m\",\"a\":" . '[' x 200000,
 "POST /v1/chat/completions\n" . '{"a":' x 100000,
 "POST /v1/chat/completions\n{\"model\":\"m\",\"options\":" . '{"b":' x 10001
 . '1' . '}' x 10002]
--- refused: openai 400 invalid_json
--- message: the request body is nested too deep



=== C46: a raw NUL, newline or tab in a string
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"m\",\"a\":\"x${_}y\"}" }
     "\0", "\n", "\t", "\x1f"]
--- refused: openai 400 invalid_json



=== C47: bad UTF-8 and half surrogates in content pass unchanged
--- request eval
"POST /v1/chat/completions\n{\"model\":\"m\",\"messages\":[{\"content\":"
. "\"\xff\xfe\xc3 \\ud800 \\udc00\\ud800 \xed\xa0\x80\"}]}"
--- error_code: 200
--- upstream_count: 1
--- upstream_body eval
"{\"model\":\"m\",\"messages\":[{\"content\":"
. "\"\xff\xfe\xc3 \\ud800 \\udc00\\ud800 \xed\xa0\x80\"}]}"



=== C48: numbers pass unchanged
--- request
POST /v1/chat/completions
{"model":"m","seed":12345678901234567890,"a":1e400,"b":-0.0,"c":1E+2,"d":0.1000}
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"model":"m","seed":12345678901234567890,"a":1e400,"b":-0.0,"c":1E+2,"d":0.1000}



=== C49: too large by its length
--- http_config eval
main::gate_http("client_body_timeout 5s;")
--- config
location / {
    client_max_body_size 100;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\",\"a\":\"" . 'x' x 100 . '"}',
 "POST /v1/embeddings\n{\"model\":\"m\",\"a\":\"" . 'x' x 200000 . '"}']
--- refused: openai 413 request_too_large
--- message: the request body is too large
--- response_headers eval
["Connection: close", "Connection: close"]



=== C49: too large, Anthropic
--- config
location / {
    client_max_body_size 100;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request eval
"POST /v1/messages\n{\"model\":\"m\",\"a\":\"" . 'x' x 100 . '"}'
--- refused: anthropic 413



=== C49: too large by its chunks
--- config
location / {
    client_max_body_size 100;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- raw_request eval
"POST /api/chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
. "Authorization: Bearer sk-alice\r\n\r\n"
. "c8\r\n" . '{"model":"m","a":"' . 'x' x 180 . "\"}\r\n0\r\n\r\n"
--- refused: ollama 413
--- response_headers
Connection: close



=== C49: as large as allowed
--- config
location / {
    client_max_body_size 13;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"m"}
--- error_code: 200
--- upstream_count: 1



=== C50: a body that stops coming is not waited for
--- config
location / {
    client_body_timeout 100ms;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::stalled();
--- request
GET /v1/models
--- error_code: 200
--- upstream_count: 1



=== C51: a length that cuts the JSON
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n"
. "Authorization: Bearer sk-alice\r\nConnection: close\r\n\r\n{\"model\":\"m\"}"
--- refused: openai 400 invalid_json



=== C52: chunks become a length
--- init
main::chunked('{"model":"m"}');
main::chunked('{"mod', 'el":', '"m"', '}');
main::chunked(split //, '{"model":"m","a":[1,2]}');
--- request
GET /v1/models
--- error_code: 200



=== C52: chunk extensions and trailers go no further
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
. "\r\nAuthorization: Bearer sk-alice\r\nConnection: close\r\n\r\n"
. "5;a=b\r\n{\"mod\r\n8\r\nel\":\"m\"}\r\n0\r\nX-Trailer: y\r\n\r\n"
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"model":"m"}
--- upstream_request_like: ^Content-Length: 13\r$
--- upstream_request_unlike: (?i)a=b|^x-trailer|^transfer-encoding



=== C52: the body byte by byte
--- init
main::dribble();
--- request
GET /v1/models
--- error_code: 200



=== C53: errors come before 100 Continue
--- init
main::refused_before_100(401);
main::refused_before_100(401, 'Authorization: Bearer none');
main::refused_before_100(415, 'Authorization: Bearer sk-alice',
                         'Content-Encoding: gzip');
--- request
GET /v1/models
--- error_code: 200
--- upstream_count: 1



=== C53: 100 Continue when the body is wanted, and Expect stays here
--- init
main::continued();
Test::More::unlike((main::upstream()->requests)[0]{raw}, qr/^expect/mi,
                   'no Expect upstream');
--- request
GET /v1/models
--- error_code: 200
--- upstream_count: 2



=== C54: encoded bodies, OpenAI
--- request eval
[("POST /v1/chat/completions\n{\"model\":\"m\"}") x 6]
--- more_headers eval
[map { "Authorization: Bearer sk-alice\nContent-Encoding: $_" }
     'gzip', 'deflate', 'br', 'GZIP', 'gzip, identity', 'x']
--- refused: openai 415 unsupported_encoding



=== C54: encoded bodies, Anthropic
--- request
POST /v1/messages
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
Content-Encoding: gzip
--- refused: anthropic 415



=== C54: encoded bodies, Ollama
--- request
POST /api/chat
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
Content-Encoding: deflate
--- refused: ollama 415



=== C54: identity is no encoding
--- request eval
[("POST /v1/chat/completions\n{\"model\":\"m\"}") x 2]
--- more_headers eval
[map { "Authorization: Bearer sk-alice\nContent-Encoding: $_" }
     'identity', 'Identity']
--- error_code eval
[200, 200]
--- upstream_count: 1
--- upstream_request_unlike: (?i)^content-encoding



=== C55: zstd, which an upstream would decode
--- request eval
["POST /v1/chat/completions\n\x28\xb5\x2f\xfd", "POST /v1/responses\n\x28",
 "POST /v1/embeddings\n{\"model\":\"m\"}"]
--- more_headers
Authorization: Bearer sk-alice
Content-Encoding: zstd
--- refused: openai 415 unsupported_encoding



=== C54: compressed bytes without a word about it
--- request eval
"POST /v1/chat/completions\n\x1f\x8b\x08\x00\x00\x00\x00\x00"
--- refused: openai 400 invalid_json



=== C56: the content type of the request does not matter
--- request eval
[("POST /v1/chat/completions\n{\"model\":\"m\"}") x 4]
--- more_headers eval
[map { "Authorization: Bearer sk-alice$_" }
     '', "\nContent-Type: text/plain",
     "\nContent-Type: application/x-www-form-urlencoded",
     "\nContent-Type: application/json; charset=utf-8"]
--- error_code eval
[(200) x 4]
--- upstream_count: 1
--- upstream_request_like: (?i)^content-type: application/json(?:; charset=utf-8)?\r$



=== C56: a form of a foreign page has no token
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers
Content-Type: text/plain
Origin: https://evil.example
Cookie: a=b
--- refused: openai 401 invalid_api_key



=== C57: multipart to the transcriptions
--- request
POST /v1/audio/transcriptions
--- more_headers
Authorization: Bearer sk-alice
Content-Type: multipart/form-data; boundary=x
--- refused: openai 404 endpoint_not_found



=== C57: multipart to the chat
--- request eval
"POST /v1/chat/completions\n--x\r\nContent-Disposition: form-data; "
. "name=\"model\"\r\n\r\nm\r\n--x--"
--- more_headers
Authorization: Bearer sk-alice
Content-Type: multipart/form-data; boundary=x
--- refused: openai 400 invalid_json



=== C58: a stream that is no boolean
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"m\",\"stream\":$_}" }
     '"true"', '1', '0', '{}', '[]', '"false"']
--- refused: openai 400 invalid_type stream
--- message: a parameter has the wrong type: stream



=== C58: other controls of the wrong type
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"m\",$_}" }
     '"stream_options":[]', '"stream_options":true',
     '"stream_options":{"include_usage":1}', '"max_tokens":"10"',
     '"max_completion_tokens":[5]', '"max_tokens":true']
--- error_code eval
[(400) x 6]
--- response_body_like eval
[('"code":"invalid_type"') x 6]
--- upstream_count: 0



=== C58: options of the wrong type
--- request eval
[map { "POST /api/chat\n{\"model\":\"m\",$_}" }
     '"options":[]', '"options":"x"', '"options":{"num_predict":"5"}']
--- refused: ollama 400



=== C59: null is as good as nothing
--- request
POST /api/chat
{"model":"m","stream":null,"options":null,"keep_alive":null}
--- error_code: 200
--- upstream_count: 1
--- upstream_body chomp
{"model":"m","stream":null,"options":null,"keep_alive":null}



=== 125: a client that leaves during its upload
--- init
main::abandoned();
--- request
GET /v1/models
--- error_code: 200
--- upstream_count: 1
--- no_error_log
[alert]



=== the body of a refused request is not taken for the next one
--- pipelined_requests eval
["POST /v1/chat/completions\nGET /v1/models HTTP/1.1", "GET /v1/models",
 "POST /v1/none\nGET /v1/models HTTP/1.1", "GET /v1/models",
 "GET /v1/chat/completions\nGET /v1/models HTTP/1.1", "GET /v1/models"]
--- more_headers eval
["X-Other: y", ("Authorization: Bearer sk-alice") x 5]
--- error_code eval
[401, 200, 404, 200, 405, 200]



=== C51: after a bad body the connection closes
--- pipelined_requests eval
["POST /v1/chat/completions\n{\"model\":"]
--- error_code eval
[400]
--- raw_response_headers_like eval
["(?i)connection: close"]



=== a body where none belongs is not sent on: it may be read as a request
--- raw_request eval
"GET /v1/models HTTP/1.1\r
Host: localhost\r
Authorization: Bearer sk-alice\r
Content-Length: 31\r
Connection: close\r
\r
DELETE /api/delete HTTP/1.1\r
\r
"
--- error_code: 400
--- response_body_like: a request of this kind has no body
--- upstream_count: 0



=== nor a chunked one
--- raw_request eval
"GET /api/tags HTTP/1.1\r
Host: localhost\r
Authorization: Bearer sk-alice\r
Transfer-Encoding: chunked\r
Connection: close\r
\r
3\r
abc\r
0\r
\r
"
--- error_code: 400
--- response_body_like: a request of this kind has no body
--- upstream_count: 0



=== C49: too large by its chunks, and read on under an error_page
--- config
location / {
    client_max_body_size 100;
    error_page 413 @big;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location @big {
    client_max_body_size 0;
    proxy_ignore_client_abort on;
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
    proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location = /other { return 200 else; }
--- upstream eval
[{ gate => 'page' }, main::reply(200, 'sorry')]
--- init
main::refused_and_read_on();
--- request
GET /other
--- error_code: 200
--- log_level: debug
--- error_log
client intended to send too large chunked body



=== C49: too large by its chunks, and not judged by what there is of it
--- config
location / {
    client_max_body_size 100;
    error_page 413 = @gated;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
location @gated {
    client_max_body_size 0;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::refused_and_judged_again();
--- request
GET /v1/models
--- error_code: 200
--- log_level: debug
--- error_log
refused a request: partial_body
