# Reloads under streams: what the old workers hold is finished by them, as it
# was begun, and what the new ones serve adds to the same numbers.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

master_on();
workers(2);
no_shuffle();
log_level('info');


our ($first, $second, $finish, $total, $done) = events('chat');

# Half a usage event is on its way when the reload comes; "dies" and "left"
# have not come so far.

sub script {
    my ($request) = @_;
    my $gate = $request->{headers}{'x-case'};
    my $head = stream('text/event-stream');

    return $head, chunk($first . $second), { gate => $gate },
           $gate eq 'dies' ? { close => 1 } : { stall => 1 }
        if $gate !~ /^stream/;

    return $head, chunk($first . $second . $finish . substr $total, 0, 50),
           { gate => $gate }, chunk(substr($total, 50) . $done), chunk();
}

sub begin {
    my ($gate) = @_;
    my $client = client();

    $client->request('POST', asked('chat'), Connection => 'close',
                     Authorization => 'Bearer sk-alice',
                     'X-Request-Id' => $gate, 'X-Case' => $gate);

    Test::More::ok(defined $client->read_until($gate =~ /^stream/
                                               ? qr/"stop"/ : qr/"lo"/),
                   "$gate: it runs");
    return $client;
}

sub finish {
    my ($client, $gate) = @_;

    upstream()->open_gate($gate);

    my $rest = $client->read_all // '';

    # a worker that shuts down waits for its client to close as well

    $client->close;
    my $log = log_of($gate);

    Test::More::like($rest, qr/data: \[DONE\]\n\n\r\n0\r\n\r\n\z/,
                     "$gate: it ends");
    Test::More::unlike($rest, qr/usage/, "$gate: the event is dropped");
    Test::More::is("$log->{prompt_tokens} $log->{completion_tokens}"
                   . " $log->{error}", '26 10 ', "$gate: the log");
}

sub generations {
    my @gates = map { "stream-$_" } 1 .. 3;
    my @clients;

    # each is begun by another generation of workers

    for my $gate (@gates) {
        push @clients, begin($gate);
        Test::More::ok(reload_nginx(), "$gate: reload");
    }

    becomes('requests_in_flight{model="other"}', 3);
    finish($clients[$_], $gates[$_]) for 1, 0, 2;

    becomes('requests_in_flight{model="other"}', 0);
    becomes('model_request_total{model="m"}', 3);
    becomes('tokens_total{model="m",type="completion"}', 30);
    becomes('time_to_first_token_seconds_count{model="m"}', 3);

    Test::More::ok(wait_until(sub { worker_pids() == 2 }),
                   'the old workers are gone');
}


# Those that cannot be finished end as they would have without a reload.

sub ends_of_old_ones {
    my $dies = begin('dies');
    my $left = begin('left');

    Test::More::ok(reload_nginx(), 'reload');
    upstream()->open_gate('dies');

    Test::More::like($dies->read_all, qr/"upstream_error"/, 'the cut one');
    $dies->close;
    Test::More::is(log_of('dies')->{error}, 'reset', 'the log');

    $left->close;
    Test::More::is(log_of('left')->{error}, 'client_abort', 'the one left');

    becomes('model_error_total{model="m",error_type="reset"}', 1);
    becomes('model_error_total{model="m",error_type="client_abort"}', 1);
    becomes('requests_in_flight{model="other"}', 0);
    Test::More::ok(wait_until(sub { worker_pids() == 2 }),
                   'the old workers are gone');
}

run_tests();

__DATA__

=== streams of three generations of workers
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::generations();



=== streams that end badly behind a reload
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::ends_of_old_ones();
--- error_log
upstream prematurely closed connection
