# The end of a generation that is complete: a last data event that lacks its
# blank line gets one, so that no client loses it; nothing else is added.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


our ($first, $second, $finish, $total, $done) = events('chat');
our $all = "$first$second$finish";

sub cut_off {
    my ($text, $bytes) = @_;
    return substr $text, 0, length($text) - $bytes;
}

# A case: the format, what is sent, what the client gets behind it.

our %cases = (
    'no line end' => ['chat', cut_off("$all$done", 2), "\n\n"],
    'no blank line' => ['chat', cut_off("$all$done", 1), "\n\n"],
    'no line end, CRLF' =>
        ['chat', cut_off("$all$done" =~ s/\n/\r\n/gr, 4), "\n\n"],
    'half a line end' =>
        ['chat', cut_off("$all$done" =~ s/\n/\r\n/gr, 3), "\n\n"],
    'the finish itself' => ['chat', cut_off($all, 2), "\n\n"],
    'completions' => ['completions',
                      cut_off(join('', (events('completions'))[0 .. 2]), 2),
                      "\n\n"],
    'responses' => ['responses', cut_off(body_of('responses'), 2), "\n\n"],
    'messages' => ['messages', cut_off(body_of('messages'), 1), "\n\n"],
    'lines' => ['native', cut_off(body_of('native'), 1), ''],
    'lines of generate' => ['generate', cut_off(body_of('generate'), 1), ''],
    'whole' => ['chat', "$all$done", ''],
    'half a comment' => ['chat', "$all$done: by", ''],
    'an event name alone' => ['chat', "$all${done}event: x", ''],
    'half an event behind the end' => ['chat', "$all${done}data: {\"x", ''],
);

sub script {
    my ($request) = @_;
    my ($case, $way) = split '/', $request->{headers}{'x-case'};
    my ($format, $sent) = @{ $cases{$case} };

    return deliver($way, framing_of($format), $sent);
}

sub every_case {
    my (@ways) = @_;

    for my $case (sort keys %cases) {
        my ($format, $sent, $more) = @{ $cases{$case} };

        for my $way (@ways) {
            my $answer = exchange('POST', asked($format),
                                  'X-Case' => "$case/$way");
            my $log = log_of($answer->{id});

            Test::More::is($answer->{body}, "$sent$more",
                           "$case, $way: the bytes");
            Test::More::ok($answer->{whole}, "$case, $way: the end");
            Test::More::is($log->{error}, '', "$case, $way: no error");
            Test::More::like($log->{finish_reason},
                             qr/^(?:stop|completed|end_turn)$/,
                             "$case, $way: the finish");
        }
    }
}


# The upstream dies when all is said: that is no error of the generation.

sub cut_behind {
    my ($sent, $more, $whole) = @_;
    my $answer = exchange('POST', asked('chat'), 'X-Sent' => length $sent);
    my $log = log_of($answer->{id});

    Test::More::is($answer->{body}, "$sent$more", 'the bytes');
    Test::More::is($answer->{whole}, $whole, 'the end');
    Test::More::is($log->{error}, '', 'no error');
}

sub script_cut {
    my ($request) = @_;

    return deliver('cut', 'text/event-stream',
                   substr "$all$done", 0, $request->{headers}{'x-sent'});
}

run_tests();

__DATA__

=== each case, in each way
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::every_case(qw(whole bytes length close raw:61));



=== the upstream dies behind the finish
--- upstream eval
[sub { main::script_cut($_[0]) }]
--- init
main::cut_behind($::all, '', 1);
main::cut_behind("$::all$::done", '', 1);
main::cut_behind($::all . 'data: [DONE]', "\n\n", 1);
main::cut_behind($::all . 'data: [DO', '', 0);
--- counted
model_error_total{model="m",error_type="reset"} 0
--- error_log
upstream prematurely closed connection



=== the dropped usage event was the last and lacked its blank line
--- upstream eval
[main::deliver('whole', 'text/event-stream',
               main::cut_off($::all . $::total, 1))]
--- request eval: main::ask('chat')
--- response_body eval: $::all
--- logged: prompt_tokens=26 completion_tokens=10 error=



=== the usage event that was asked for, likewise
--- upstream eval
[main::deliver('whole', 'text/event-stream',
               main::cut_off($::all . $::total, 2))]
--- request eval
main::ask('chat', ',"stream_options":{"include_usage":true}')
--- response_body eval: $::all . $::total
--- logged: prompt_tokens=26 completion_tokens=10 error=
