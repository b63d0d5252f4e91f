# The runner itself: that what should pass passes, and above all that every
# kind of wrong expectation fails.  Each case is a test file of its own, run
# by a nested prove under the runner in t/lib.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use Test::More;

my $lib = abs_path(dirname(__FILE__) . '/lib');
my $dir = tempdir('clawd-runner-XXXXXX', TMPDIR => 1, CLEANUP => 1);

my $config = <<'E';
--- config
location = /ok { add_header X-A b; return 200 "fine\n"; }
location = /502 { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
location = /up { proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
E


# outcome(BLOCK, SETTINGS): "ok" or "not ok", and the output of prove.

sub outcome {
    my ($block, $settings) = @_;

    my $file = "$dir/case.t";
    open my $out, '>', $file or die "cannot write $file: $!\n";
    print $out <<"E";
use Test::Nginx::Socket 'no_plan';
use Clawd::Upstream;
use Clawd::Client;
$settings
run_tests();

__DATA__

=== TEST 1: case
$block
E
    close $out or die "cannot write $file: $!\n";

    local $ENV{TEST_NGINX_SERVROOT} = "$dir/servroot";
    local $ENV{TEST_NGINX_PATIENCE} = 0.7;
    my $text = `cd "$dir" && prove -I"$lib" case.t 2>&1`;

    return ($? == 0 ? 'ok' : 'not ok', $text);
}


sub passes {
    my ($name, $block, $settings) = @_;
    my ($result, $text) = outcome($block, $settings // '');

    is($result, 'ok', "passes: $name") or diag($text);
}


# It must fail for the reason given, not for some other one.

sub fails {
    my ($name, $why, $block, $settings) = @_;
    my ($result, $text) = outcome($block, $settings // '');

    is($result, 'not ok', "fails: $name") or diag($text);
    like($text, $why, "... and says why");
}


passes('all that is true', $config . <<'E');
--- request
GET /ok
--- response_headers
X-A: b
!X-B
--- response_headers_like
X-A: [a-c]
--- raw_response_headers_like: X-A: b\r\n
--- raw_response_headers_unlike: X-B
--- response_body
fine
--- access_log
GET /ok
--- no_error_log
[error]
--- upstream_count: 0
E

passes('a list of requests', $config . <<'E');
--- request eval
["GET /ok", "GET /none", ["PO", "ST /ok\nbo", "dy"]]
--- error_code eval
[200, 404, 200]
--- response_body_like eval
["fine", "404 Not Found", "fine"]
E

passes('pipelined requests', $config . <<'E');
--- pipelined_requests eval
["GET /ok", "GET /none", "GET /ok"]
--- error_code eval
[200, 404, 200]
E

fails('status', qr/status code/, $config . <<'E');
--- request
GET /ok
--- error_code: 201
E

fails('status of one in a list', qr/status code/, $config . <<'E');
--- request eval
["GET /ok", "GET /ok"]
--- error_code eval
[200, 404]
E

fails('body', qr/response body/, $config . <<'E');
--- request
GET /ok
--- response_body
wrong
E

fails('body pattern', qr/response body like/, $config . <<'E');
--- request
GET /ok
--- response_body_like: ^wrong
E

fails('body anti-pattern', qr/response body unlike/, $config . <<'E');
--- request
GET /ok
--- response_body_unlike: fine
E

fails('header', qr/header X-A/, $config . <<'E');
--- request
GET /ok
--- response_headers
X-A: c
E

fails('absent header', qr/no header X-A/, $config . <<'E');
--- request
GET /ok
--- response_headers
!X-A
E

fails('header pattern', qr/header X-A/, $config . <<'E');
--- request
GET /ok
--- response_headers_like
X-A: [c-z]
E

fails('raw header pattern', qr/raw headers like/, $config . <<'E');
--- request
GET /ok
--- raw_response_headers_like: X-C
E

fails('raw header anti-pattern', qr/raw headers unlike/, $config . <<'E');
--- request
GET /ok
--- raw_response_headers_unlike: X-A
E

fails('error log', qr/"no such line" is in a line/, $config . <<'E');
--- request
GET /ok
--- error_log
no such line
E

fails('no error log', qr/"\[error\]" is in no line/, $config . <<'E');
--- request
GET /502
--- error_code: 502
--- no_error_log
[error]
E

fails('grep error log', qr/grep_error_log_out/, $config . <<'E');
--- request
GET /502
--- error_code: 502
--- grep_error_log eval
qr/connect\(\) failed/
--- grep_error_log_out
connect() failed
connect() failed
E

fails('access log', qr/in a line of access.log/, $config . <<'E');
--- request
GET /ok
--- access_log
GET /other
E

fails('a section that does not exist', qr/unknown section --- respones_body/,
      $config . <<'E');
--- request
GET /ok
--- respones_body
fine
E

fails('one expectation for two requests', qr/must be a list/,
      $config . <<'E');
--- request eval
["GET /ok", "GET /ok"]
--- error_code: 200
E

fails('NGINX that should not start', qr/die as expected/, $config . <<'E');
--- must_die
E

fails('NGINX that does not start', qr/unknown directive "foo"/, <<'E');
--- config
foo;
--- request
GET /
E

fails('silence', qr/timed out/, $config . <<'E');
--- upstream eval
[{ stall => 1 }]
--- request
GET /up
--- timeout: 0.3
E

fails('a chunked body without an end', qr/bad response/, <<'E');
--- config
location = /chunked {
    proxy_http_version 1.1;
    proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- upstream eval
[main::stream('text/plain'), main::chunk('abc'), { close => 1 }]
--- request
GET /chunked
E

fails('upstream count', qr/upstream count/, $config . <<'E');
--- request
GET /ok
--- upstream_count: 1
E

fails('upstream count 0', qr/upstream count/, $config . <<'E');
--- upstream eval
[main::reply(200, '')]
--- request
GET /up
--- upstream_count: 0
E

fails('upstream body', qr/upstream body/, $config . <<'E');
--- upstream eval
[main::reply(200, '')]
--- request
POST /up
abc
--- upstream_body chomp
abd
E

fails('upstream request pattern', qr/upstream request_like/,
      $config . <<'E');
--- upstream eval
[main::reply(200, '')]
--- request
GET /up
--- upstream_request_like: ^X-None:
E

fails('upstream request anti-pattern', qr/upstream request_unlike/,
      $config . <<'E');
--- upstream eval
[main::reply(200, '')]
--- request
GET /up
--- upstream_request_unlike: ^Host:
E

fails('a request that never came', qr/upstream request_unlike/,
      $config . <<'E');
--- request
GET /ok
--- upstream_request_unlike: ^Authorization:
E

fails('upstream event', qr/upstream event/, $config . <<'E');
--- upstream eval
[main::reply(200, '')]
--- request
GET /up
--- upstream_event: aborted
E

passes('tcp query', $config . <<'E');
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_reply eval
["HTTP/1.0 200 OK\r\n", "\r\nabc"]
--- tcp_query eval
qr{\AGET /502 HTTP/1.0\r\n}
--- request
GET /502
--- response_body chomp
abc
E

fails('tcp query', qr/tcp_query/, $config . <<'E');
--- tcp_listen: $TEST_NGINX_RAND_PORT_1
--- tcp_reply eval
"HTTP/1.0 200 OK\r\n\r\n"
--- tcp_query: something else
--- request
GET /502
E

fails('an alert in the log', qr/alerts or sanitizer reports/,
      $config . <<'E', 'master_on();');
--- init
kill 'KILL', worker_pids();
wait_until(sub { error_log() =~ /\[alert\]/ });
--- request
GET /ok
E

passes('an alert that is expected', $config . <<'E', 'master_on();');
--- init
kill 'KILL', worker_pids();
--- request
GET /ok
--- error_log
[alert]
exited on signal 9
E

fails('a sanitizer report', qr/runtime error: made up/, $config . <<'E');
--- init
open my $out, '>', server_root() . '/logs/sanitizer.1';
print $out "x.c:1: runtime error: made up\n";
close $out;
--- request
GET /ok
E

fails('a crash', qr/died of signal 9/, $config . <<'E');
--- init
kill 'KILL', nginx_pid();
--- request
GET /ok
--- ignore_response
E

done_testing();
