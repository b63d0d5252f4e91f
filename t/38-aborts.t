# Clients that leave: the upstream is left at once, and what was generated
# until then is counted.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


our ($first, $second, $finish, $total, $done) = events('chat');

# Three events, one without output, and then silence.

our $silent = [stream('text/event-stream'), chunk($first, $second),
               { stall => 1 }];

sub start {
    my ($format, $id) = @_;
    my $client = client();

    $client->request('POST', asked($format), Authorization => 'Bearer sk-alice',
                     'X-Request-Id' => $id);
    return $client;
}

sub left {
    my ($id, $completion, $source) = @_;

    Test::More::ok(upstream()->wait_for(1, 'aborted'),
                   'the upstream is left');

    my $log = log_of($id);

    Test::More::is($log->{error}, 'client_abort', 'the log');
    Test::More::is($log->{completion_tokens}, $completion, 'the tokens');
    Test::More::is($log->{usage_source}, $source, 'their source');
    becomes('requests_in_flight{model="m"}', 0) if $completion ne '';
    becomes('requests_in_flight{model="other"}', 0);
}

sub before_the_first_byte {
    my $begun = metric('upstream_last_byte_timestamp_seconds');
    my $client = start('chat', 'early');

    Test::More::cmp_ok(abs(time - $begun), '<', 60, 'when NGINX started');

    upstream()->wait_for(1);
    becomes('requests_in_flight{model="other"}', 1);
    becomes('upstream_last_byte_timestamp_seconds', $begun);
    $client->close;

    left('early', '', '');
    Test::More::is(log_of('early')->{status}, 499, 'the status');
    becomes('model_error_total{model="other",error_type="client_abort"}', 1);
}

sub behind_the_header {
    my $client = start('chat', 'header');

    $client->read_until(qr/\r\n\r\n/);
    $client->close;

    left('header', 0, 'estimated');
}

sub mid_stream {
    my ($how) = @_;

    # so that what is heard can be told from the start of NGINX
    my $begun = metric('upstream_last_byte_timestamp_seconds') + 3;
    select undef, undef, undef, 0.05 while time < $begun;

    my $client = start('chat', $how);

    $client->read_until(qr/"lo"/);
    becomes('requests_in_flight{model="other"}', 1);
    Test::More::cmp_ok(metric('upstream_last_byte_timestamp_seconds'), '>=',
                       $begun - 1, 'what came so far is known');
    $client->$how;

    left($how, 2, 'counted');
    becomes('model_error_total{model="m",error_type="client_abort"}', 1);
    becomes('tokens_total{model="m",type="completion"}', 2);
    becomes('usage_source_total{source="counted"}', 1);
}


# A client that shuts down its side for writing counts as gone.

sub half_close {
    my $client = start('chat', 'half');

    $client->read_until(qr/"lo"/);
    shutdown $client->{sock}, 1;

    left('half', 2, 'counted');
}


# A client that leaves with a message in its hands has got it.

sub behind_the_end {
    my $client = start('chat', 'end');

    $client->read_until(qr/\[DONE\]\n\n/);
    $client->close;
    Test::More::ok(upstream()->wait_for(1, 'aborted'),
                   'the upstream is left');

    my $log = log_of('end');

    Test::More::is("$log->{error},$log->{prompt_tokens},"
                   . "$log->{completion_tokens},$log->{usage_source}",
                   ',26,10,upstream', 'success');
    becomes('model_error_total{model="m",error_type="client_abort"}', 0);
}


# One that leaves at an error has seen the end of it, too.

sub behind_an_error {
    my $client = start('native', 'error');

    $client->read_until(qr/boom/);
    $client->close;
    upstream()->wait_for(1, 'aborted');

    Test::More::is(log_of('error')->{error}, 'incomplete', 'the log');
}


# A client that reads nothing fills the buffers between it and the upstream.

sub slow_reader {
    my $client = start('chat', 'slow');

    $client->read_until(qr/\r\n\r\n/);

    my $log = log_of('slow');

    Test::More::is($log->{error}, 'client_abort', 'the log');
    Test::More::cmp_ok($log->{completion_tokens}, '>', 10,
                       'what was passed on is counted');
    Test::More::ok(upstream()->wait_for(1, 'aborted'),
                   'the upstream is left');
    $client->close;
}

sub endless {
    my ($event) = Clawd::Observe::chunks($first =~ s/Hel/'x' x 65536/er);

    return stream('text/event-stream'), ($event) x 1000;
}


# A client that leaves while its body is still on the way.

sub upload {
    my $client = client();

    $client->request('POST', '/v1/chat/completions', undef,
                     Authorization => 'Bearer sk-alice',
                     'X-Request-Id' => 'up', 'Content-Length' => 1000);
    $client->send('{"model":');
    $client->close;

    Test::More::is(log_of('up')->{prompt_tokens}, '', 'nothing was used');
    Test::More::is(log_of('up')->{error}, 'client_abort', 'it was its own end');
    becomes('rejected_total{reason="client_abort"}', 1);
    becomes('rejected_total{reason="nginx"}', 0);
    Test::More::is(scalar(upstream()->requests), 0, 'nothing was sent');
    becomes('requests_in_flight{model="other"}', 0);
}


# Many at once leave nothing behind.

sub many {
    my @clients = map { start('chat', "many-$_") } 1 .. 20;

    $_->read_until(qr/"lo"/) for @clients;
    becomes('requests_in_flight{model="other"}', 20);
    $_ % 2 ? $clients[$_]->close : $clients[$_]->reset for 0 .. 19;

    becomes('requests_in_flight{model="other"}', 0);
    becomes('model_request_total{model="m"}', 20);
    becomes('model_error_total{model="m",error_type="client_abort"}', 20);
    becomes('tokens_total{model="m",type="completion"}', 40);
}


# The next request of the same client is served as if nothing had been.

sub aborted_and_again {
    my $client = start('chat', 'one');

    $client->read_until(qr/"lo"/);
    $client->close;
    upstream()->wait_for(1, 'aborted');

    my $answer = exchange('POST', asked('chat'));

    Test::More::like($answer->{body}, qr/\[DONE\]/, 'the next one');
}

run_tests();

__DATA__

=== before the first byte
--- upstream eval
[{ stall => 1 }]
--- init
main::before_the_first_byte();



=== behind the header
--- upstream eval
[main::stream('text/event-stream'), { stall => 1 }]
--- init
main::behind_the_header();



=== in the middle of a stream, politely
--- upstream eval: $::silent
--- init
main::mid_stream('close');



=== in the middle of a stream, impolitely
--- upstream eval: $::silent
--- init
main::mid_stream('reset');



=== a half-closed connection
--- upstream eval: $::silent
--- init
main::half_close();



=== behind the last event, before the end of the body
--- upstream eval
[main::stream('text/event-stream'), main::chunk(main::events('chat')),
 { stall => 1 }]
--- init
main::behind_the_end();



=== at an error event
--- upstream eval
[main::stream('application/x-ndjson'),
 main::chunk((main::events('native'))[0], "{\"error\":\"boom\"}\n"),
 { stall => 1 }]
--- init
main::behind_an_error();



=== a reader that does not read: send_timeout
--- config eval: main::conf('send_timeout 500ms;')
--- upstream eval
[sub { main::endless() }]
--- init
main::slow_reader();



=== during the upload
--- init
main::upload();



=== many
--- upstream eval: $::silent
--- init
main::many();



=== and the next request
--- upstream eval
[$::silent, [main::deliver('whole', 'text/event-stream',
                           main::body_of('chat'))]]
--- init
main::aborted_and_again();



=== with proxy_ignore_client_abort the stream is read to its end
--- config eval: main::conf('proxy_ignore_client_abort on;')
--- upstream eval
[main::stream('text/event-stream'), main::chunk($::first, $::second),
 { gate => 'rest' }, main::chunk($::finish, $::total, $::done), main::chunk()]
--- init
my $client = main::start('chat', 'ignored');
$client->read_until(qr/"lo"/);
$client->close;
main::upstream()->open_gate('rest');
my $log = main::log_of('ignored');
Test::More::is(main::upstream()->event(1), 'answered', 'all was said');



=== an answer that is out is settled while its connection lingers
--- config eval: main::conf('lingering_close always; lingering_timeout 60s;')
--- upstream eval
[main::deliver('whole', 'text/event-stream', main::body_of('chat'))]
--- init
my $client = main::client();
$client->request('POST', main::asked('chat'), Connection => 'close',
                 Authorization => 'Bearer sk-alice',
                 'X-Request-Id' => 'lingers');
$client->read_until(qr/\[DONE\]\n\n/);
main::becomes('requests_in_flight{model="m"}', 0);
main::becomes('tokens_total{model="m",type="completion"}', 10);



=== a post_action is behind the end: nothing is in flight for it
--- config eval
main::conf('post_action @done;')
. 'location @done { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }'
--- upstream eval
[([main::deliver('whole', 'text/event-stream', main::body_of('chat'))]) x 2]
--- init
main::exchange('POST', main::asked('chat'));
Test::More::ok(main::upstream()->wait_for(2, 'answered'), 'it was done');
main::becomes('requests_in_flight{model="m"}', 0);
main::becomes('requests_in_flight{model="other"}', 0);
main::becomes('model_request_total{model="m"}', 1);
