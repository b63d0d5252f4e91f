# Headers on their way up and down: wire.md 4.0, 14, 32, 53, 108, 156-159.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;
use Clawd::Client;

no_shuffle();
run_tests();


# The whole head that an upstream gets, but for the order.

sub head_is {
    my (@want) = @_;
    my $request = (upstream()->requests)[-1];

    my %got = %{ $request->{headers} };
    Test::More::is_deeply([map { "$_: $got{$_}" } sort keys %got],
                          [sort @want], 'the headers that went upstream');
}


sub ask {
    my (@headers) = @_;
    my $client = client();

    $client->request('POST', '/v1/chat/completions', '{"model":"m"}',
                     Authorization => 'Bearer sk-alice', @headers,
                     Connection => 'close');
    return $client->read_all;
}


# Ids of two requests of one worker and of one of another worker.

sub ids_differ {
    my %seen;

    for (1 .. 20) {
        my ($id) = (ask() // '') =~ /^x-request-id: (\S+)\r$/m;
        $seen{ $id // 'none' }++;
    }

    Test::More::is(scalar keys %seen, 20, 'each request has its own id');
    Test::More::ok(!$seen{none}, 'each request has one');
}

__DATA__

=== 4.0: what an upstream gets
--- init
main::ask('Content-Type' => 'application/json', 'User-Agent' => 'x/1');
main::head_is("host: 127.0.0.1:$ENV{TEST_NGINX_UPSTREAM_PORT}",
              'content-length: 13', 'content-type: application/json',
              'user-agent: x/1');
--- request
GET /v1/models
--- error_code: 200



=== 158, 159, 16: what it does not get
--- init
main::ask('Content-Type' => 'application/json', 'X-Kept' => 'yes',
          'Cookie' => 'a=b', 'Origin' => 'http://x', 'Referer' => 'http://x/',
          'Sec-Fetch-Mode' => 'cors', 'Sec-Fetch-Site' => 'x',
          'TE' => 'trailers', 'Trailer' => 'X-T', 'Upgrade' => 'h2c',
          'Proxy-Authorization' => 'Basic x', 'Proxy-Connection' => 'close',
          'Proxy' => 'http://evil', 'X-Forwarded-For' => '1.2.3.4',
          'X-Forwarded-Host' => 'evil', 'X-Forwarded-Proto' => 'https',
          'Forwarded' => 'for=1.2.3.4', 'X-Real-IP' => '1.2.3.4',
          'X-Gateway-User' => 'root', 'Keep-Alive' => 'timeout=5',
          'Accept-Encoding' => 'gzip, br', 'Api-Key' => 'sk-alice',
          'Access-Control-Request-Method' => 'POST',
          'X-HTTP-Method-Override' => 'DELETE');
Test::More::unlike((main::upstream()->requests)[-1]{raw},
                   qr/^(?!host|content-|x-kept)[\w-]+: /mi,
                   'nothing but what is known to be harmless');
Test::More::like((main::upstream()->requests)[-1]{raw}, qr/^X-Kept: yes\r$/m,
                 'an unknown one passes');
--- request
GET /v1/models
--- error_code: 200



=== what begins or ends nearly as those do
--- init
{
    my @others = qw(Api-Ke Api-Keys Cookie2 Expec Rang Ranges T Tea Proxied
                    X-Forwarded X-Real-I X-Real-IPs Sec-Fetc Originn Upgrader
                    X-Gateway A);
    main::ask(map { ($_ => 'kept') } @others);
    my $raw = (main::upstream()->requests)[-1]{raw};
    Test::More::is_deeply([map { lc } $raw =~ /^([\w-]+): kept\r$/mg],
                          [map { lc } @others], 'passes');

    main::ask(map { ($_ . 'x' x 60 => 'stays', $_ => 'stays') }
              qw(X-Forwarded- X-Gateway- Sec-Fetch- Proxy- X-HTTP-Method-
                 Access-Control-Request-));
    Test::More::unlike((main::upstream()->requests)[-1]{raw}, qr/stays/,
                       'all with these beginnings stay');
}
--- request
GET /v1/models
--- error_code: 200



=== 159: a large cookie is no problem, a larger one is NGINX's
--- request eval
["GET /v1/models", "GET /v1/models"]
--- more_headers eval
["Authorization: Bearer sk-alice\nCookie: " . 'c' x 7000,
 "Authorization: Bearer sk-alice\nCookie: " . 'c' x 100000]
--- error_code eval
[200, 400]
--- response_body_unlike eval
["cccc", "cccc"]



=== 31, 156: what Connection names is for this hop alone
--- init
main::ask('X-Hop' => 'a', 'X-Other-Hop' => 'b', 'X-Kept' => 'c');
main::client();
{
    my $client = main::client();
    $client->send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        . "Authorization: Bearer sk-alice\r\nX-Hop: a\r\nx-other-hop: b\r\n"
        . "Connection: close, X-Hop ,x-OTHER-hop,content-length,host\r\n"
        . "X-Kept: c\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}");
    $client->read_all;
    my $raw = (main::upstream()->requests)[-1]{raw};
    Test::More::unlike($raw, qr/^x-(?:other-)?hop/mi, 'named ones stay here');
    Test::More::like($raw, qr/^X-Kept: c\r$/m, 'others pass');
    Test::More::like($raw, qr/^Content-Length: 13\r$/m, 'framing passes');
}
--- request
GET /v1/models
--- error_code: 200



=== 156: a header with an underscore is not taken for one with a dash
--- raw_request eval
"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
. "x_api_key: sk-alice\r\n\r\n"
--- refused: openai 401 invalid_api_key
--- message: gateway token missing



=== many headers
--- request
POST /v1/chat/completions
{"model":"m"}
--- more_headers eval
CORE::join("\n", map({ "X-H$_: $_" } 1 .. 30), 'Authorization: Bearer sk-alice',
           map({ "X-H$_: $_" } 31 .. 60))
--- error_code: 200
--- upstream_count: 1
--- upstream_request_like: ^X-H1: 1\r$.*^X-H30: 30\r$.*^X-H60: 60\r$
--- upstream_request_unlike: (?i)authorization



=== a stripped header at each place of the list
--- init
for my $i (0 .. 25) {
    my @headers = map { ("X-N$_" => $_) } 1 .. 25;
    splice @headers, 2 * $i, 0, Cookie => 'a=b';
    main::ask(@headers);
    my $raw = (main::upstream()->requests)[-1]{raw};
    Test::More::is(scalar(() = $raw =~ /^X-N\d+: /mg), 25, "all, with $i");
    Test::More::unlike($raw, qr/^(?:cookie|authorization)/mi, 'but that one');
}
--- request
GET /v1/models
--- error_code: 200



=== 14, 32: the Host of the upstream
--- http_config eval
main::gate_http('upstream ollama { server '
                . '127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; keepalive 2; }')
--- config
location / { clawd_pass http://ollama; }
--- request eval
["GET /api/tags", "POST /api/chat\n{\"model\":\"m\"}"]
--- more_headers
Authorization: Bearer sk-alice
Host: evil.example
--- error_code eval
[200, 200]
--- upstream_request_like: ^Host: localhost\r$
--- upstream_request_unlike: (?i)evil|^Connection:



=== the Host and more can be set by proxy_set_header
--- config
location / {
    proxy_set_header Host gpu.example;
    proxy_set_header Connection "";
    proxy_set_header Authorization "Bearer upstream-key";
    proxy_set_header X-User $clawd_user;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
POST /v1/chat/completions
{"model":"m"}
--- error_code: 200
--- upstream_request_like: (?=.*^Host: gpu\.example\r$)(?=.*^Authorization: Bearer upstream-key\r$)(?=.*^X-User: alice\r$)
--- upstream_request_unlike: sk-alice



=== 157: an id of the client's is taken over
--- request eval
["GET /v1/models", "GET /api/tags", "GET /v1/models"]
--- more_headers eval
[map { "Authorization: Bearer sk-alice\nx-request-id: $_" }
     'abc-DEF_123', 'a', 'i' x 64]
--- error_code eval
[200, 200, 200]
--- response_headers eval
[map { "x-request-id: $_" } 'abc-DEF_123', 'a', 'i' x 64]



=== 157: an id that could do harm is replaced
--- request eval
[("GET /v1/models") x 7]
--- more_headers eval
[map { "Authorization: Bearer sk-alice\nx-request-id: $_" }
     '', 'a b', 'a"b', 'a.b', "\xc3\xa9", 'i' x 65, '{}']
--- error_code eval
[(200) x 7]
--- response_headers_like eval
[("x-request-id: [0-9a-f]{24}") x 7]



=== 157: on refusals as well, and in the body where it belongs
--- request
POST /v1/messages
{}
--- more_headers
Authorization: Bearer sk-alice
x-request-id: my-id
--- error_code: 400
--- response_headers
x-request-id: my-id
request-id: my-id
--- response_body_like: "request_id":"my-id"\}\z



=== 157: the upstream's id is replaced by ours
--- upstream eval
main::reply(200, '{}', 'x-request-id' => 'upstream-1',
            'request-id' => 'upstream-2')
--- request
POST /v1/messages
{"model":"m"}
--- more_headers
Authorization: Bearer sk-alice
x-request-id: mine
--- response_headers
x-request-id: mine
request-id: mine
--- raw_response_headers_unlike: upstream-



=== 157: request-id is Anthropic's alone
--- request
POST /v1/chat/completions
{"model":"m"}
--- response_headers
!request-id
--- response_headers_like
x-request-id: [0-9a-f]{24}



=== 157: ids differ
--- init
main::ids_differ();
--- request
GET /v1/models
--- error_code: 200



=== 108: hop headers of the upstream stay there
--- upstream eval
main::reply(200, '{"type":"message"}', 'Connection' => 'keep-alive',
            'Keep-Alive' => 'timeout=5', 'X-Kept' => 'yes')
--- request
POST /v1/messages
{"model":"m"}
--- response_headers
Connection: close
!Keep-Alive
X-Kept: yes



=== X-Accel-* of the upstream steers nothing
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location /internal { internal; return 200 secret; }
--- upstream eval
main::reply(200, '{"ok":true}', 'X-Accel-Redirect' => '/internal',
            'X-Accel-Limit-Rate' => '1', 'X-Accel-Expires' => '100',
            'X-Accel-Buffering' => 'yes', 'X-Accel-Charset' => 'koi8-r')
--- request
GET /api/tags
--- error_code: 200
--- response_body chomp
{"ok":true}



=== 156: a body without a length, keepalive, two requests of one connection
--- pipelined_requests eval
["POST /v1/chat/completions\n{\"model\":\"m\"}",
 "POST /v1/messages\n{\"model\":\"m\"}", "GET /api/tags"]
--- error_code eval
[200, 200, 200]
