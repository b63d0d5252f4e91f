# Reloads: tokens and limits of the new configuration hold, requests of the
# old one are finished by it.

use strict;
use warnings;

BEGIN { $ENV{CLAWD_TEST_TOKEN} = 'sk-from-env'; }

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;
use Clawd::Client;

master_on();
workers(2);
env_to_nginx('CLAWD_TEST_TOKEN');
no_shuffle();
run_tests();


sub fetch {
    my ($method, $uri, $body, @headers) = @_;
    my $client = client();

    $client->request($method, $uri, $body, @headers, Connection => 'close');
    return $client->read_all // '';
}

sub status {
    my ($token, @request) = @_;

    @request = ('GET', '/v1/models') if !@request;
    my ($status) = fetch(@request[0 .. 2], Authorization => "Bearer $token")
                   =~ m{\AHTTP/1\.1 (\d+) };
    return $status;
}


# Changes the text of the configuration.

sub change {
    my ($from, $to) = @_;
    my $path = server_root() . '/conf/nginx.conf';

    open my $in, '<', $path or die "cannot read $path: $!\n";
    my $text = do { local $/; <$in> };
    $text =~ s/\Q$from\E/$to/ or die "no $from in $path\n";
    open my $out, '>', $path or die "cannot write $path: $!\n";
    print $out $text;
    close $out or die "cannot write $path: $!\n";
}


sub tokens {
    Test::More::is(status('sk-alice'), 200, 'the old token');
    Test::More::is(status('sk-new'), 401, 'no new token yet');

    change('clawd_token sk-alice user=alice;', 'clawd_token sk-new user=new;');
    Test::More::ok(reload_nginx(), 'reload');

    Test::More::is(status('sk-alice'), 401, 'the old token is none any more');
    Test::More::is(status('sk-new'), 200, 'the new one is');
    Test::More::is(status('sk-from-env'), 200, 'and one of the environment');
}


sub broken {
    change('clawd_token sk-alice user=alice;', 'clawd_token sk-alice;');
    kill 'HUP', nginx_pid();

    Test::More::ok(
        wait_until(sub { error_log() =~ /invalid number of arguments/ }),
        'the new configuration is refused');
    Test::More::is(status('sk-alice'), 200, 'the old one stays');
}


# The chain of filters is the process's: one that died after a reload without
# the gate that failed comes back with that of the master.

sub broken_without_the_gate {
    change('clawd_pass', 'proxy_pass');
    change('events {', "error_log /nowhere/error.log;\nevents {");
    kill 'HUP', nginx_pid();

    Test::More::ok(wait_until(sub { error_log() =~ m{nowhere/error\.log} }),
                   'the new configuration is refused');

    my %old = map { $_ => 1 } worker_pids();
    kill 'KILL', keys %old;

    Test::More::ok(wait_until(sub {
        return 2 == grep { !$old{$_} } worker_pids();
    }), 'workers come back');

    Test::More::like(fetch('GET', '/v1/models', undef,
                           Authorization => 'Bearer sk-alice'),
                     qr/^x-request-id: /m, 'and observe');
}


sub streams {
    my @clients = map { client() } 1 .. 6;

    for my $client (@clients) {
        $client->request('POST', '/v1/chat/completions',
                         '{"model":"m","stream":true}',
                         Authorization => 'Bearer sk-alice');
        Test::More::ok(defined $client->read_until(qr/"content":"one"/),
                       'a stream has begun');
    }

    change('clawd_token sk-alice user=alice;', 'clawd_token sk-new user=new;');
    Test::More::ok(reload_nginx(), 'reload during streams');
    Test::More::is(status('sk-new'), 200, 'the new configuration holds');

    upstream()->open_gate('rest');

    for my $client (@clients) {
        my $rest = $client->read_until(qr/0\r\n\r\n/) // '';

        Test::More::like($rest, qr/data: \[DONE\]\n\n/, 'a stream is whole');
        Test::More::unlike($rest, qr/"choices":\[\]/,
                           'without the usage that was asked for here');
        $client->close;
    }

    Test::More::ok(wait_until(sub { worker_pids() == 2 }),
                   'the old workers end');
    my $metrics = fetch('GET', '/metrics');
    Test::More::like($metrics, qr/^clawdbot_requests_in_flight\{model="m"\} 0$/m,
                     'nothing is in flight');
    Test::More::like($metrics, qr/^clawdbot_model_request_total\{model="m"\} 6$/m,
                     'all are counted');
    Test::More::like($metrics,
                     qr/^clawdbot_tokens_total\{model="m",type="prompt"\} 18$/m,
                     'with their tokens');
}


sub uploads {
    my $client = client();

    $client->send("POST /api/chat HTTP/1.1\r\nHost: x\r\n"
                  . "Authorization: Bearer sk-alice\r\nContent-Length: 13\r\n"
                  . "Connection: close\r\n\r\n{\"model\"");
    Test::More::ok(wait_until(sub { error_log() =~ /clawd gate state: 2/ }),
                   'a body is being read');

    change('clawd_token sk-alice user=alice;', 'clawd_token sk-new user=new;');
    Test::More::ok(reload_nginx(), 'reload during an upload');

    $client->send(':"m"}');
    Test::More::like($client->read_all // '', qr{\AHTTP/1\.1 200 },
                     'it is finished as it began');
}


sub off {
    change('clawd_pass http', 'proxy_pass http');
    Test::More::ok(reload_nginx(), 'reload');
    Test::More::is(status('none'), 200, 'no gate any more');

    change('proxy_pass http', 'clawd_pass http');
    Test::More::ok(reload_nginx(), 'reload');
    Test::More::is(status('none'), 401, 'a gate again');
}


sub limits {
    fetch('POST', '/v1/messages', '{"model":"m"}',
          Authorization => 'Bearer sk-alice');
    Test::More::is((upstream()->requests)[-1]{body},
                   '{"max_tokens":5,"model":"m"}', 'the old limit');

    change('clawd_max_tokens 5;', 'clawd_max_tokens 7;');
    Test::More::ok(reload_nginx(), 'reload');

    fetch('POST', '/v1/messages', '{"model":"m"}',
          Authorization => 'Bearer sk-alice');
    Test::More::is((upstream()->requests)[-1]{body},
                   '{"max_tokens":7,"model":"m"}', 'the new limit');
}


sub many {
    for my $i (1 .. 5) {
        Test::More::ok(reload_nginx(), "reload $i");
        Test::More::is(status('sk-alice'), 200, "and it serves");
    }

    Test::More::like(fetch('GET', '/metrics'),
        qr/^clawdbot_zone_free_bytes \d+$/m, 'metrics are there');
}

__DATA__

=== tokens change
--- http_config eval
main::gate_http('clawd_token env:CLAWD_TEST_TOKEN user=env;')
--- init
main::tokens();
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-new
--- error_code: 200



=== a broken configuration changes nothing
--- init
main::broken();
--- request
GET /v1/models
--- error_code: 200
--- error_log
[emerg]



=== one without the gate, and workers die
--- init
main::broken_without_the_gate();
--- request
GET /v1/models
--- error_code: 200
--- error_log
[emerg]
[alert]
exited on signal 9



=== streams go on
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location = /metrics { clawd_metrics; }
--- upstream eval
{ '/v1/chat/completions' => [
      main::stream('text/event-stream'),
      main::sse('{"model":"m","choices":[{"index":0,"delta":'
                . '{"content":"one"}}]}'),
      { gate => 'rest' },
      main::sse('{"model":"m","choices":[{"index":0,"delta":{},'
                . '"finish_reason":"stop"}]}',
                '{"model":"m","choices":[],"usage":{"prompt_tokens":3,'
                . '"completion_tokens":1}}', '[DONE]'),
      main::chunk()],
  '*' => [main::reply(200, '{}')] }
--- init
main::streams();
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-new
--- error_code: 200



=== an upload goes on
--- init
main::uploads();
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-new
--- error_code: 200



=== the gate goes and comes
--- init
main::off();
--- request
GET /v1/models
--- error_code: 200



=== limits change
--- config
location / {
    clawd_max_tokens 5;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- init
main::limits();
--- request
GET /v1/models
--- error_code: 200



=== many reloads
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
location = /metrics { clawd_metrics; }
--- init
main::many();
--- request
GET /v1/models
--- error_code: 200
