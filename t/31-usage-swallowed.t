# The usage event that only the gateway asked for does not reach the client,
# however the bytes arrive; all others do.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


our ($first, $second, $finish, $total, $done) = events('chat');
our $without = "$first$second$finish$done";

# an event of the kind that is held for longer than any other

our $wide = 'data: {"id":"' . 'w' x 3000 . '","choices":[],"usage":'
            . '{"prompt_tokens":26,"completion_tokens":10}}' . "\n\n";
our $huge = $wide =~ s/w+/'w' x 5000/er;

our $filter = 'data: {"choices":[],"created":0,"id":"","model":"","object":"",'
    . '"prompt_filter_results":[{"prompt_index":0,"content_filter_results":'
    . '{"hate":{"filtered":false,"severity":"safe"}}}]}' . "\n\n";

our $counts = '"usage":{"prompt_tokens":26,"completion_tokens":10}';
our $early = $finish =~ s/\{"id/{$counts,"id/r;

our $zeros = join '', map {
    s/\}\n\n/,"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n/r
} (events('completions'))[0 .. 2];

# A case: what the upstream sends, what the client is to get, and the counts.

our %cases = (
    'chat' => ['chat', body_of('chat'), $without],
    'completions' => ['completions', body_of('completions'),
                      join('', (events('completions'))[0 .. 2, 4])],
    'CRLF' => ['chat', body_of('chat') =~ s/\n/\r\n/gr,
               $without =~ s/\n/\r\n/gr],
    'CR' => ['chat', body_of('chat') =~ s/\n/\r/gr, $without =~ s/\n/\r/gr],
    'comments' =>
        ['chat', ": hi\n\n" . join(": ping\n\n", events('chat')) . ": bye\n\n",
         ": hi\n\n$first: ping\n\n$second: ping\n\n$finish: ping\n\n"
         . ": ping\n\n$done: bye\n\n"],
    'zeros on every chunk' =>
        ['completions',
         $zeros . join('', (events('completions'))[3, 4]),
         $zeros . (events('completions'))[4]],
    'choices last' =>
        ['chat', $first . $finish . 'data: {"usage":{"completion_tokens":10,'
         . '"prompt_tokens":26},"model":"m","choices":[]}' . "\n\n$done",
         "$first$finish$done"],
    'choices last, and not empty' =>
        ['chat', "$first$early$done", "$first$early$done"],
    'a wide one' => ['chat', "$first$finish$wide$done", "$first$finish$done"],
    'two' => ['chat', "$first$finish$total$total$done", "$first$finish$done"],
    'behind [DONE]' => ['chat', "$first$finish$done$total",
                        "$first$finish$done"],
    'the last bytes' => ['chat', "$first$finish$total", "$first$finish"],
    'the last bytes, no blank line' =>
        ['chat', "$first$finish" . $total =~ s/\n\n\z//r, "$first$finish"],
    'the last bytes, and half of a line break' =>
        ['chat', "$first$finish$total" =~ s/\n/\r\n/gr =~ s/\n\z//r,
         "$first$finish" =~ s/\n/\r\n/gr],
    'no choices and no usage first' =>
        ['chat', $filter . body_of('chat'), $filter . $without],
    'a long event passes' =>
        ['chat', $first =~ s/Hel/'y' x 20000/er . "$finish$total$done",
         $first =~ s/Hel/'y' x 20000/er . "$finish$done"],
    'spaces and data in lines' =>
        ['chat', $first . $finish . qq(data: { "choices" : [ ] ,\n)
         . qq(data: "usage" : { "prompt_tokens" : 26,\n)
         . qq(data: "completion_tokens" : 10 } }\n\n$done),
         "$first$finish$done"],
);

sub script {
    my ($request) = @_;
    my ($case, $way) = split '/', $request->{headers}{'x-case'};

    return deliver($way, 'text/event-stream', $cases{$case}[1]);
}

sub check {
    my ($case, $way, $rest) = @_;
    my ($format, undef, $want) = @{ $cases{$case} };

    my $answer = exchange('POST', asked($format, $rest),
                          'X-Case' => "$case/$way");
    my $log = log_of($answer->{id});

    Test::More::ok($answer->{body} eq $want, "$case, $way: the bytes")
        or Test::More::diag("got $answer->{body}\nwant $want");
    Test::More::is_deeply(
        [@$log{qw(prompt_tokens completion_tokens usage_source error)},
         $answer->{status}, $answer->{whole}],
        [26, 10, 'upstream', '', 200, 1], "$case, $way: the rest");
}

sub every_case {
    for my $case (sort keys %cases) {
        check($case, $_) for qw(whole bytes mod:3:1 length close);
        check($case, 'raw:' . (length $cases{$case}[1] > 4000 ? 700 : 61));
    }
}


# The event in two parts at each of its bytes, as two buffers of one read and,
# here and there, of two.

sub every_split {
    my $to = length($without) + length $total;

    for my $at (length($first . $second . $finish) .. $to) {
        check('chat', "mod:10000:$at");
        check('chat', "at:$at") if $at % 11 == 0;
    }
}


# What the client asked for is not touched, in any way that it may ask.

sub asks_itself {
    for my $way (qw(whole bytes at:500)) {
        my $answer = exchange('POST', asked('chat',
            ',"stream_options":{"include_usage":true}'),
            'X-Case' => "chat/$way");

        Test::More::is($answer->{body}, body_of('chat'), "$way: all of it");
    }

    check('chat', 'whole', $_)
        for ',"stream_options":{"include_usage":false}',
            ',"stream_options":null', ',"stream_options":{}',
            ',"stream_options":{"include_usage":null}';
}


# One that is longer than may be held: its bytes were let go.

sub too_long {
    for my $way (qw(raw:700 mod:1000:1 bytes)) {
        my $answer = exchange('POST', asked('chat'), 'X-Way' => $way);
        my $log = log_of($answer->{id});

        Test::More::ok($answer->{body} eq "$first$finish$huge$done",
                       "$way: it is let go")
            or Test::More::diag($answer->{body});
        Test::More::is("$log->{prompt_tokens} $log->{completion_tokens}",
                       '26 10', "$way: and counted");
    }
}

sub script_too_long {
    my ($request) = @_;

    return deliver($request->{headers}{'x-way'}, 'text/event-stream',
                   "$first$finish$huge$done");
}


# Nothing but the event itself is held: what came before it is out.

sub held_alone {
    my $client = client();

    $client->request('POST', asked('chat'), Connection => 'close',
                     Authorization => 'Bearer sk-alice');
    my $seen = $client->read_until(qr/"stop"\}\]\}\n\n/) // '';

    Test::More::like($seen, qr/Hel.*lo.*"stop"/s,
                     'events ahead of half a usage event are out');
    upstream()->open_gate('rest');

    my $rest = $client->read_all // '';
    Test::More::like($rest, qr/\[DONE\]\n\n\r\n0\r\n\r\n\z/, 'the end');
    Test::More::unlike("$seen$rest", qr/usage/, 'no usage');
}

run_tests();

__DATA__

=== each case in each way
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::every_case();



=== the event, cut at each byte
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::every_split();



=== a client that asks for it
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::asks_itself();



=== too long to be held
--- upstream eval
[sub { main::script_too_long($_[0]) }]
--- init
main::too_long();



=== nothing else is held with it
--- upstream eval
[main::stream('text/event-stream'),
 main::chunk($::first . $::second . $::finish . substr $::total, 0, 60),
 { gate => 'rest' }, main::chunk(substr($::total, 60) . $::done),
 main::chunk()]
--- init
main::held_alone();



=== usage, finish and the end in one segment, asked for by us alone
--- upstream eval
[main::deliver('at:' . length "$::first$::second", 'text/event-stream',
               main::body_of('chat'))]
--- request eval: main::ask('chat')
--- response_body eval: $::without
--- upstream_body_like: "stream_options":\{"include_usage":true\}
--- logged: prompt_tokens=26 completion_tokens=10 finish_reason=stop error=
--- counted
tokens_total{model="m",type="prompt"} 26
tokens_total{model="m",type="completion"} 10
usage_source_total{source="upstream"} 1



=== only the usage of chat and completions is dropped
--- upstream eval
[main::deliver('bytes', 'text/event-stream', main::body_of('responses'))]
--- request eval: main::ask('responses')
--- upstream_body eval: (main::asked('responses'))[1]
--- response_body eval: main::body_of('responses')
--- logged: prompt_tokens=26 completion_tokens=10 usage_source=upstream error=



=== an upstream that does not know the option
--- upstream eval
[main::deliver('whole', 'text/event-stream', $::without)]
--- request eval: main::ask('chat')
--- response_body eval: $::without
--- logged: completion_tokens=2 usage_source=counted error=
--- counted
usage_source_total{source="counted"} 1



=== a prompt that is told as none, beside an answer: it was cached, not empty
--- upstream eval
[main::deliver('whole', 'text/event-stream',
               main::body_of('chat') =~ s/"prompt_tokens":26/"prompt_tokens":0/r)]
--- request eval: main::ask('chat')
--- response_body eval: $::without
--- logged eval
'prompt_tokens=' . int(length((main::asked('chat'))[1]) / 4)
. ' completion_tokens=10 usage_source=counted error='



=== the same of messages, which told it before
--- upstream eval
[main::deliver('whole', 'text/event-stream',
               main::body_of('messages')
               =~ s/"input_tokens":26/"input_tokens":0/r)]
--- request eval: main::ask('messages')
--- logged: prompt_tokens=4 completion_tokens=10 usage_source=upstream error=
