# Every answer in t/fixtures, hand-made or recorded, through NGINX: whole, and
# cut into buffers and segments.  What the client gets, what is logged and
# what is counted is compared with the sidecar.

use strict;
use warnings;

use FindBin;
use JSON::PP ();
use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


our $home = "$FindBin::Bin/fixtures";

sub slurp {
    my ($path) = @_;

    open my $in, '<', $path or die "cannot read $path: $!\n";
    binmode $in;
    local $/;
    return scalar <$in>;
}

# Those that the gateway refuses, answers itself or changes are not for it.

our %fixtures;

for my $path (glob "$home/*.json $home/recorded*/*.json") {
    my $sidecar = JSON::PP->new->utf8->decode(slurp($path));
    my ($name) = $path =~ m{^\Q$home\E/(.*)\.json$};
    my $replay = $sidecar->{replay} // 1;

    $fixtures{$name} = { %$sidecar, gzip => scalar($name =~ /gzip/),
                         body => slurp("$home/$name.body"),
                         http => slurp("$home/$name.http") }
        if $replay;
}

die "no fixtures\n" if keys %fixtures < 80;


# The answer, in a way: "http" is as it was recorded, "segments:SEED" the same
# in pieces, and others are those of deliver().

sub script {
    my ($request) = @_;
    my ($name, $way) = split ' ', $request->{headers}{'x-case'};
    my ($http, $body) = @{ $fixtures{$name} }{qw(http body)};

    # the one whose last chunk is missing ends with its connection

    my @end = $fixtures{$name}{response}{status} == 200
              && ($fixtures{$name}{expect}{error}{kind} // '')
                 eq 'upstream_reset' ? { close => 1 } : ();

    return ($http, @end) if $way eq 'http';

    if ($way =~ /^segments:(\d+)$/) {
        srand $1;
        my ($from, @steps) = (0);

        for my $to ((sort { $a <=> $b } map { 1 + int rand length($http) - 1 }
                          1 .. 6), length $http)
        {
            push @steps, substr($http, $from, $to - $from),
                         { pause => 0.003 } if $to > $from;
            $from = $to;
        }

        return @steps, @end;
    }

    my ($head) = $http =~ /\A(.*?\r\n)\r\n/s;
    $head =~ s/^(?:Content-Length|Transfer-Encoding):[^\n]*\n//gmi;

    my ($first, @rest) = deliver($way, 'x', $body);
    $first =~ s/\A.*?\r\n\r\n/${head}Transfer-Encoding: chunked\r\n\r\n/s;

    return $first, @rest;
}


# The request of the sidecar, or one that fits the answer; $plain: without
# usage being asked for.

sub request_of {
    my ($fx, $plain) = @_;

    my $path = $fx->{endpoint} eq '/v1/nope' ? '/v1/chat/completions'
                                             : $fx->{endpoint};

    return ($fx->{method}, $path, undef) if $fx->{method} ne 'POST';

    my $asked = ref $fx->{request} eq 'HASH' ? { %{ $fx->{request} } }
                                             : { model => 'm' };
    delete $asked->{stream_options} if $plain;
    $asked->{model} =~ s/-cloud$//;

    return 'POST', $path, JSON::PP->new->utf8->canonical->encode($asked);
}


# What the client is to get of a stream.

sub stream_wanted {
    my ($fx, $plain) = @_;
    my $want = $fx->{body};

    if ($plain) {
        $want =~ s/^data:[^\r\n]*"choices":\[\],[^\r\n]*"usage":\{
                  [^\r\n]*\r?\n\r?\n//mx;
    }

    my $expect = $fx->{expect};

    if ($fx->{response}{framing} eq 'sse' && $want !~ /\n\r?\n\z/
        && $expect->{terminal_seen} && !$fx->{gzip})
    {
        return "$want\n\n";
    }

    if (!$expect->{terminal_seen} && !defined $expect->{finish_reason}
        && ($expect->{error}{kind} // '') ne 'upstream_error')
    {
        return $want =~ /\n\n\z/ ? $want . inband('chat') : $want;
    }

    return $want;
}


# What it is to get of an error: status, and body or what its message is.

sub error_wanted {
    my ($fx) = @_;
    my ($status, $body) = ($fx->{response}{status}, $fx->{body});

    return (502, undef, qr/refuses this gateway/)
        if $status == 403 && $body eq '';
    return (502, undef, qr/cannot be relayed/) if $status == 499;
    return (400, undef, qr/^request \(53192 tokens\) exceeds/)
        if $body =~ /exceed_context_size_error/;
    return ($status, undef, qr/^[^<]+$/)
        if $fx->{response}{framing} ne 'json';

    my $error = JSON::PP->new->utf8->decode($body);
    my $family = family($fx);
    my $fits = $family eq 'ollama'
               ? !ref $error->{error} && keys %$error == 1
               : ref $error->{error}
                 && ($family eq 'openai' || $error->{type} eq 'error');
    my $message = ref $error->{error} ? $error->{error}{message}
                                      : $error->{error};

    return ($status, $fits ? $body : undef, qr/^\Q$message\E$/);
}

sub family {
    my ($fx) = @_;

    return $fx->{endpoint} =~ m{^/api/} ? 'ollama'
         : $fx->{endpoint} =~ m{^/v1/messages} ? 'anthropic' : 'openai';
}

sub check_error {
    my ($fx, $answer, $name) = @_;
    my ($status, $body, $message) = error_wanted($fx);

    Test::More::is($answer->{status}, $status, "$name: status");
    Test::More::is($answer->{header}{'content-type'}, 'application/json',
                   "$name: type");
    Test::More::is($answer->{body}, $body, "$name: the bytes")
        if defined $body;

    my $got = eval { JSON::PP->new->utf8->decode($answer->{body}) } // {};
    my $error = $got->{error};
    my $family = family($fx);

    Test::More::like($family eq 'ollama' ? $error : $error->{message},
                     $message, "$name: message");
    Test::More::is($got->{type} // '', $family eq 'anthropic' ? 'error' : '',
                   "$name: shape");
    Test::More::is(ref $error, $family eq 'ollama' ? '' : 'HASH',
                   "$name: shape of the error");
    Test::More::is($error->{code}, 'context_length_exceeded', "$name: code")
        if $family eq 'openai' && $message =~ /53192/;
    Test::More::ok(($answer->{header}{'retry-after'} // '')
                   =~ /^[1-9]\d?$/, "$name: Retry-After") if $status == 503;
}

sub check_log {
    my ($fx, $log, $name) = @_;
    my $expect = $fx->{expect};

    if (defined $expect->{prompt_tokens}) {
        Test::More::is("$log->{prompt_tokens} $log->{completion_tokens}"
                       . " $log->{usage_source}", "$expect->{prompt_tokens}"
                       . ' ' . ($expect->{completion_tokens} // 0)
                       . ' upstream', "$name: tokens");
    } else {
        Test::More::isnt($log->{usage_source}, 'upstream',
                         "$name: nobody told the tokens");
    }

    Test::More::is($log->{finish_reason}, $expect->{finish_reason},
                   "$name: finish") if defined $expect->{finish_reason};

    my $kind = $expect->{error}{kind} // '';
    my $status = $fx->{response}{status};

    return if $fx->{method} ne 'POST' || $fx->{endpoint} =~ /count_tokens/;

    Test::More::is($log->{error}, $status == 499 ? 'invalid_response'
                   : $status >= 500 ? 'upstream_5xx'
                   : $status >= 400 ? 'upstream_4xx'
                   : $kind eq 'upstream_reset' ? 'reset'
                   : $kind ? 'incomplete' : '', "$name: error");
}

our %sum = (prompt => 0, completion => 0);

sub replay {
    my ($name, $way, $plain) = @_;
    my $fx = $fixtures{$name};

    my $answer = exchange(request_of($fx, $plain),
                          Authorization => 'Bearer sk-root',
                          'X-Case' => "$name $way");
    my $log = log_of($answer->{id});
    my $title = "$name, $way" . ($plain ? ', plain' : '');

    $sum{prompt} += $log->{prompt_tokens} || 0;
    $sum{completion} += $log->{completion_tokens} || 0;

    check_log($fx, $log, $title);
    return check_error($fx, $answer, $title)
        if $fx->{response}{status} >= 400;

    my $want = $fx->{response}{framing} eq 'json' ? $fx->{body}
                                                  : stream_wanted($fx, $plain);

    Test::More::is($answer->{status}, $fx->{response}{status},
                   "$title: status");
    Test::More::ok($answer->{body} eq $want, "$title: the bytes")
        or Test::More::diag('got ', substr($answer->{body}, -600), "\nwant ",
                            substr $want, -600);

    # the one that was cut within an event is to be cut here, too

    Test::More::is($answer->{whole},
                   ($fx->{expect}{error}{kind} // '') eq 'upstream_reset'
                   && $want eq $fx->{body} ? 0 : 1, "$title: the end");
}

sub sums {
    for my $type (qw(prompt completion)) {
        becomes("user_tokens_total{user=\"root\",type=\"$type\"}",
                $sum{$type});
        $sum{$type} = 0;
    }

    becomes('requests_in_flight{model="other"}', 0);
}


# whole(): as they were recorded, and in segments.

sub whole {
    for my $name (sort keys %fixtures) {
        replay($name, 'http');
        replay($name, "segments:$_") for length $name, 7;
    }

    sums();
}


# Streams, cut between any two bytes in one or another of a few requests,
# with and without usage being asked for.  The tokens are the same.

sub everywhere {
    for my $name (sort keys %fixtures) {
        my $fx = $fixtures{$name};
        my $length = length $fx->{body};

        next if $fx->{response}{status} != 200
                || ($fx->{expect}{error}{kind} // '') eq 'upstream_reset';

        my $step = $length < 3000 ? 4 : 1 + int $length / 50;
        my @ways = map { "mod:$step:$_" } 0, 1, 2, 3;
        push @ways, 'bytes' if $length < 10000;

        replay($name, $_) for @ways;

        next if $fx->{gzip} || !eval { $fx->{request}{stream_options} };

        replay($name, $_, 1) for @ways;
    }

    sums();
}

run_tests();

__DATA__

=== as they came, and in segments
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::whole();
--- error_log
upstream prematurely closed connection



=== cut everywhere
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::everywhere();
