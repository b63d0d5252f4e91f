# A generation that ended incomplete is not passed off as whole: it ends in an
# error event, or where none can be placed, without an end.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


# Every format, by how the upstream ends: cleanly ("whole"), by a FIN ("cut")
# or a RST ("reset") where more was promised, behind so many events and so
# many bytes more.

sub script {
    my ($request) = @_;
    my ($format, $way, $events, $bytes) =
        split ' ', $request->{headers}{'x-case'};

    $way .= ":$format-$events-$bytes" if $way eq 'reset';

    return deliver($way, framing_of($format), part($format, $events, $bytes));
}

sub part {
    my ($format, $events, $bytes) = @_;
    my @events = events($format);

    return join '', @events[0 .. $events - 1],
                    substr $events[$events], 0, $bytes;
}


# As exchange(), for a reset that comes only when the client has read all that
# was sent before it.

sub ask_and_reset {
    my ($format, $case) = @_;

    my $id = "r-$format-$case" =~ s/\W/-/gr;
    my $client = client();

    $client->request('POST', asked($format), Connection => 'close',
                     Authorization => 'Bearer sk-alice',
                     'X-Request-Id' => $id, 'X-Case' => "$format $case");

    my ($way, $events, $bytes) = split ' ', $case;
    my $last = (events($format))[$events - 1];
    my $head = $client->read_until(qr/\r\n\r\n/) // '';
    my $sent = $events ? $client->read_until(qr/\Q$last\E/) : '';

    upstream()->open_gate("$format-$events-$bytes");

    my $answer = Clawd::Observe::parse($head . ($sent // '')
                                       . ($client->read_all // ''));
    $answer->{id} = $id;
    return $answer;
}


sub at_boundary {
    my ($way, $error, $events) = @_;

    for my $format (formats()) {
        my $case = "$way $events 0";
        my $answer = $way eq 'reset'
            ? ask_and_reset($format, $case)
            : exchange('POST', asked($format), 'X-Case' => "$format $case");
        my $log = log_of($answer->{id});
        my $want = part($format, $events, 0) . inband($format, $events);

            Test::More::is($answer->{body}, $want, "$format: an error event");
        Test::More::ok($answer->{whole}, "$format: and an end");
        Test::More::is($log->{error}, $error, "$format: the log");
        Test::More::is($log->{status}, 200, "$format: the status");
    }
}

sub in_mid_event {
    my ($way, $error) = @_;

    for my $format (formats()) {
        for my $bytes (1, 20) {
            my $case = "$way 1 $bytes";
            my $answer = $way eq 'reset'
                ? ask_and_reset($format, $case)
                : exchange('POST', asked($format),
                           'X-Case' => "$format $case");
            my $log = log_of($answer->{id});
            my $sent = part($format, 1, $bytes);

            # what was held of a usage event that never came may be missing

            Test::More::is(substr($sent, 0, length $answer->{body}),
                           $answer->{body}, "$format, $bytes: nothing else");
            Test::More::ok(length $answer->{body}
                           >= length part($format, 1, 0),
                           "$format, $bytes: whole events came");
            Test::More::ok(!$answer->{whole}, "$format, $bytes: no end");
            Test::More::is($log->{error}, $error, "$format, $bytes: the log");
        }
    }
}


# Bodies that are not a whole number of events, all of them of a clean end:
# what is sent, and what the client gets behind it.

our ($first, $second, $finish, $total, $done) = events('chat');
our $bad = inband('chat');

our $nameless = 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk",'
    . '"model":"","choices":[{"index":0,"delta":{"content":""},'
    . '"finish_reason":null}]}' . "\n\n";

our %tails = (
    'nothing at all' => ['', $bad],
    'a comment alone' => [": loading\n\n", $bad],
    'a comment, half' => ["$first: pi", "\n\n$bad"],
    'a comment, its line' => ["$first: ping\n", $bad],
    'a comment, one byte' => ["$first:", "\n\n$bad"],
    'a last event without its blank line' => [$first =~ s/\n\n\z//r,
                                              "\n\n$bad"],
    'a last event with its line' => [$first =~ s/\n\z//r, "\n\n$bad"],
    'the swallowed error' => ["$first$nameless", $bad],
    'the swallowed error first' => [$nameless, $bad],
    'CRLF' => ["$first$second" =~ s/\n/\r\n/gr, $bad],
    'nothing but [DONE]' => [$done, $bad],
    'no finish, but [DONE]' => ["$first$done", $bad],
    'junk' => ["${first}data: {]\n\n", $bad],
);

sub script_tail {
    my ($request) = @_;
    my ($case, $way) = split '/', $request->{headers}{'x-case'};

    return deliver($way, 'text/event-stream', $tails{$case}[0]);
}

sub every_tail {
    for my $case (sort keys %tails) {
        my ($sent, $more) = @{ $tails{$case} };

        for my $way (qw(whole bytes cut)) {
            my $answer = exchange('POST', asked('chat'),
                                  'X-Case' => "$case/$way");
            my $log = log_of($answer->{id});

            Test::More::is($answer->{body}, "$sent$more",
                           "$case, $way: the bytes");
            Test::More::ok($answer->{whole}, "$case, $way: the end");
            Test::More::is($log->{error}, $way eq 'cut' && $sent ne
                           "$first$nameless" ? 'reset' : 'incomplete',
                           "$case, $way: the log");
        }
    }
}


# A usage event that nobody is to see, with no finish reason before it.

sub lone_usage {
    my $answer = exchange('POST', asked('chat'), 'X-Case' => 'x');
    my $log = log_of($answer->{id});

    Test::More::is($answer->{body}, "$first$bad", 'dropped, then the error');
    Test::More::is("$log->{prompt_tokens} $log->{completion_tokens}"
                   . " $log->{error}", '26 10 incomplete', 'and counted');
}


# What was held of half a usage event.

sub half_usage {
    for my $bytes (5, 30, 150) {
        my $answer = exchange('POST', asked('chat'),
                              'X-Case' => "chat cut 3 $bytes");
        my $log = log_of($answer->{id});

        Test::More::like($answer->{body},
                         qr/\A\Q$first$second$finish\E(?!.*error)/s,
                         "$bytes: what was whole");
        Test::More::ok(!$answer->{whole}, "$bytes: no end");
        Test::More::is("$log->{completion_tokens} $log->{usage_source}",
                       '2 counted', "$bytes: the tokens");
    }
}


# The upstream falls silent.

sub silent {
    my ($sent, $more) = @_;
    my $answer = exchange('POST', asked('chat'));
    my $log = log_of($answer->{id});

    Test::More::is($answer->{body}, $sent . ($more // ''), 'the bytes');
    Test::More::is($answer->{whole}, defined $more ? 1 : 0, 'the end');
    Test::More::is($log->{error}, 'timeout', 'the log');
    Test::More::ok(upstream()->wait_for(1, 'aborted'), 'the upstream is left');
    becomes('model_error_total{model="m",error_type="timeout"}', 1);
}


# Errors that the upstream tells in the stream itself pass alone.

our %told = (
    chat => ['data: {"error":{"message":"boom","type":"server_error",'
             . '"param":null,"code":null}}' . "\n\n"],
    completions => ['data: {"error":{"message":"boom"}}' . "\n\n",
                    'data: {"error":"boom"}' . "\n\n"],
    responses => ["event: error\ndata: {\"type\":\"error\",\"code\":null,"
                  . "\"message\":\"boom\",\"param\":null,"
                  . "\"sequence_number\":1}\n\n",
                  "event: response.failed\ndata: {\"type\":\"response.failed\","
                  . "\"sequence_number\":1,\"response\":{\"id\":\"r\","
                  . "\"status\":\"failed\",\"error\":{\"message\":\"boom\"},"
                  . "\"usage\":null}}\n\n"],
    messages => ["event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":"
                 . "\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"],
    native => ["{\"error\":\"boom\"}\n",
               "{\"error\":\"an error was encountered\"}"],
    generate => ["{\"error\":\"boom\"}\n"],
);

sub script_told {
    my ($request) = @_;
    my ($format, $n, $way) = split ' ', $request->{headers}{'x-case'};

    return deliver($way, framing_of($format),
                   (events($format))[0] . $told{$format}[$n]);
}

sub every_told {
    for my $format (formats()) {
        for my $n (0 .. $#{ $told{$format} }) {
            for my $way (qw(whole bytes close)) {
                my $answer = exchange('POST', asked($format),
                                      'X-Case' => "$format $n $way");
                my $log = log_of($answer->{id});

                Test::More::is($answer->{body}, (events($format))[0]
                               . $told{$format}[$n], "$format $n, $way");
                Test::More::ok($answer->{whole}, "$format $n, $way: the end");
                Test::More::is($log->{error}, 'incomplete',
                               "$format $n, $way: the log");
            }
        }
    }
}


# Answers that promised more than came are closed at once.

sub short_length {
    my ($path, $body, $sent) = @_;

    my $answer = exchange('POST', $path, $body);
    my $log = log_of($answer->{id});

    Test::More::is($answer->{body}, $sent, 'what came');
    Test::More::ok(!$answer->{whole}, 'no end');
    Test::More::is($log->{error}, 'reset', 'the log');
}


# HTTP/1.0 knows no chunks; its error event is all that it can be told.

sub old_client {
    my $client = client();

    $client->send(sprintf "POST %s HTTP/1.0\r\nAuthorization: Bearer sk-alice"
                  . "\r\nX-Case: chat cut 1 0\r\nContent-Length: %d\r\n\r\n%s",
                  (asked('chat'))[0], length((asked('chat'))[1]),
                  (asked('chat'))[1]);

    my $answer = Clawd::Observe::parse($client->read_all);

    Test::More::is($answer->{body}, "$first$bad", 'an error event');
    Test::More::is($answer->{header}{'transfer-encoding'}, undef, 'no chunks');
}


# A stream of HTTP/2 that is cut ends in a reset of this stream, which may
# overtake what was sent before it.

sub over_http2 {
    my ($case, $exit, $body) = @_;
    my ($path, $asked) = asked('chat');

    my $answer = h2($path, '--no-show-error', '-d', $asked,
                    '-H', "X-Case: $case");

    $body = substr $body, 0, length $answer->{body} if $exit;

    Test::More::is($answer->{body}, $body, "$case: the bytes");
    Test::More::is($answer->{exit}, $exit, "$case: how it ended");
}

our $http2 = h2_conf();

run_tests();

__DATA__

=== a clean end between events
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::at_boundary('whole', 'incomplete', 1);
main::at_boundary('whole', 'incomplete', 2);
--- counted
model_error_total{model="m",error_type="incomplete"} 12
http_request_duration_seconds_count{model="m",code="2xx"} 12
tokens_total{model="m",type="completion"} 13
requests_in_flight{model="m"} 0



=== a cut between events
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::at_boundary('cut', 'reset', 1);
--- counted
model_error_total{model="m",error_type="reset"} 6
requests_in_flight{model="m"} 0
--- error_log
upstream prematurely closed connection



=== a reset between events
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::at_boundary('reset', 'reset', 1);
--- error_log
Connection reset by peer



=== a clean end within an event
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::in_mid_event('whole', 'incomplete');
--- counted
model_error_total{model="m",error_type="incomplete"} 12
requests_in_flight{model="m"} 0



=== a cut within an event
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::in_mid_event('cut', 'reset');
--- error_log
upstream prematurely closed connection



=== a reset within an event
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::in_mid_event('reset', 'reset');
--- error_log
Connection reset by peer



=== comments, missing ends, swallowed errors
--- upstream eval
[sub { main::script_tail($_[0]) }]
--- init
main::every_tail();
--- error_log
upstream prematurely closed connection



=== a usage event without a finish
--- upstream eval
[main::deliver('whole', 'text/event-stream', $::first . $::total)]
--- init
main::lone_usage();



=== half a usage event
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::half_usage();
--- error_log
upstream prematurely closed connection



=== silence between events
--- config eval: main::conf('proxy_read_timeout 500ms;')
--- upstream eval
[main::stream('text/event-stream'), main::chunk($::first), { stall => 1 }]
--- init
main::silent($::first, $::bad);
--- error_log
upstream timed out



=== silence within an event
--- config eval: main::conf('proxy_read_timeout 500ms;')
--- upstream eval
[main::stream('text/event-stream'), main::chunk($::first . 'data: {"id'),
 { stall => 1 }]
--- init
main::silent($::first . 'data: {"id');
--- error_log
upstream timed out



=== silence behind the header
--- config eval: main::conf('proxy_read_timeout 500ms;')
--- upstream eval
[main::stream('text/event-stream'), { stall => 1 }]
--- init
main::silent('', $::bad);
--- error_log
upstream timed out



=== errors that the upstream tells are not told again
--- upstream eval
[sub { main::script_told($_[0]) }]
--- init
main::every_told();



=== a JSON answer that is shorter than it said
--- upstream eval
["HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
 . "Content-Length: 500\r\n\r\n{\"model\":\"m\"", { close => 1 }]
--- init
main::short_length('/v1/chat/completions', '{"model":"m","messages":[]}',
                   '{"model":"m"');
--- error_log
upstream prematurely closed connection



=== a JSON answer in chunks without the last one
--- upstream eval
[main::stream('application/json'), main::chunk('{"model":"m"'),
 { close => 1 }]
--- init
main::short_length('/v1/chat/completions', '{"model":"m","messages":[]}',
                   '{"model":"m"');
--- error_log
upstream prematurely closed connection



=== a JSON answer that is no JSON
--- upstream eval
[main::reply(200, '{"model":"m","choices":')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body chomp
{"model":"m","choices":
--- logged: error=incomplete
--- counted
model_error_total{model="m",error_type="incomplete"} 1



=== a compressed stream that is cut off
--- upstream eval
[main::stream('text/event-stream', 'Content-Encoding' => 'gzip'),
 main::chunk("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"), { close => 1 }]
--- init
my $answer = main::exchange('POST', main::asked('chat'));
Test::More::is(length $answer->{body}, 10, 'what came');
Test::More::ok(!$answer->{whole}, 'no end');
--- error_log
upstream prematurely closed connection



=== a client of HTTP/1.0
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::old_client();
--- error_log
upstream prematurely closed connection



=== HTTP/2
--- http_config eval: $::http2
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::over_http2('chat whole 1 0', 0, "$::first$::bad");
main::over_http2('chat whole 1 9', 92, $::first . substr $::second, 0, 9);
main::over_http2('chat cut 1 9', 92, $::first . substr $::second, 0, 9);
--- error_log
upstream prematurely closed connection
