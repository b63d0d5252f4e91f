package Clawd::Quota;

# What blocks about quotas have in common, on top of Clawd::Observe, which it
# brings along.  The store of the ledger is the zone, or Redis once
# Clawd::Redis is used as well: blocks do not name it, so that both stores pass
# the same ones.
#
# --- quota: lines, each of which becomes "clawd_quota LINE;".  A block without
# http_config gets quota_http() with them.
#
# Functions are called in --- init, which begins with "package main;".

use strict;
use warnings;

use JSON::PP ();
use Test::More ();
use Test::Nginx::Socket ();
use Time::HiRes qw(sleep time);

use Clawd::Client;
use Clawd::Observe ();
use Clawd::Upstream ();

# What the store needs in the http block; Clawd::Redis has more of it.

our @store;

# What sets it for a block: the two runners call preprocessors in opposite
# orders, so it is called from here.

our $store_of;

my @functions = qw(admitted becomes_used body_for bound denied early estimate
                   family_of limited_headers message_of post quota_http saw
                   send_post soon until_midnight unheld usage used);

my %path = (
    chat => '/v1/chat/completions', completions => '/v1/completions',
    responses => '/v1/responses', messages => '/v1/messages',
    embeddings => '/v1/embeddings', native => '/api/chat',
    generate => '/api/generate', embed => '/api/embed',
);

my %rest = (
    map({ $_ => '"messages":[{"role":"user","content":"hi"}]' }
            qw(chat messages native)),
    map({ $_ => '"prompt":"hi"' } qw(completions generate)),
    map({ $_ => '"input":"hi"' } qw(responses embeddings embed)),
);

my %cap = (
    map({ $_ => '"max_tokens":%d' } qw(chat messages completions)),
    map({ $_ => '"options":{"num_predict":%d}' } qw(native generate)),
    responses => '"max_output_tokens":%d',
);


sub import {
    my ($class, @names) = @_;
    my $caller = caller;

    no strict 'refs';
    *{"${caller}::$_"} = \&$_ for @functions;

    my $known = Test::Nginx::Socket->can('known_sections');
    $known->('quota') if $known;

    # whichever preprocessor runs first, the configuration is there by then

    Test::Nginx::Socket::add_block_preprocessor(\&prepare);
    eval "package $caller; Clawd::Observe->import(\@names); 1" or die $@;
    Test::Nginx::Socket::add_block_preprocessor(\&prepare);
}


# Defaults of other helpers may have been there before: a block's own section
# is told by its original values.

sub prepare {
    my ($block) = @_;

    return if $block->{clawd_quota}++ > 1
              || defined $block->original_values->{http_config};

    $store_of->($block) if $store_of;

    my @lines = grep { /\S/ } split /\n/, $block->quota // '';

    $block->set_value(http_config => quota_http(map { "clawd_quota $_;" }
                                                    @lines));
}


# quota_http(MORE): the usual http_config with what the store needs, and MORE.

sub quota_http {
    return Clawd::Observe::http(@store, @_);
}


sub family_of {
    my ($format) = @_;

    return $format eq 'messages' ? 'anthropic'
         : $path{$format} =~ m{^/api/} ? 'ollama' : 'openai';
}


# post(FORMAT, OPTIONS): a request of that format and its answer.  Options:
# max (tokens of the answer; undef asks for none), token, text, model, stream,
# more (of its JSON), path, headers.

sub post {
    my ($format, %opt) = @_;

    return Clawd::Observe::exchange(
        'POST', $opt{path} // $path{$format}, body_for($format, %opt),
        Authorization => 'Bearer ' . ($opt{token} // 'sk-alice'),
        @{ $opt{headers} // [] });
}


sub body_for {
    my ($format, %opt) = @_;

    my $max = exists $opt{max} ? $opt{max} : 10;
    my $text = $opt{text} // 'hi';
    my $rest = $rest{$format} =~ s/"hi"/"$text"/r;

    return '{' . join(',', '"model":"' . ($opt{model} // 'm') . '"', $rest,
                      defined $max && $cap{$format}
                      ? sprintf($cap{$format}, $max) : (),
                      $opt{stream} ? '"stream":true' : (),
                      $opt{more} // ()) . '}';
}


# send_post(FORMAT, OPTIONS): the same without waiting for the answer: its
# client.

sub send_post {
    my ($format, %opt) = @_;
    my $client = client();

    $client->request('POST', $opt{path} // $path{$format},
                     body_for($format, %opt),
                     Authorization => 'Bearer ' . ($opt{token} // 'sk-alice'),
                     Connection => 'close', @{ $opt{headers} // [] });
    return $client;
}


# bound(FORMAT, OPTIONS): what the prompt can have at most; estimate(): what
# is reserved.

sub bound {
    my ($format, %opt) = @_;
    my $body = body_for($format, %opt);
    my $messages = () = $body =~ /"role":/g;

    return length($body) + 128 + 8 * $messages;
}

sub estimate {
    my ($format, %opt) = @_;

    return bound($format, %opt)
           + ($cap{$format} ? exists $opt{max} ? $opt{max} : 10 : 0);
}


# soon(): how a sentence tells a wait within a minute.

sub soon {
    return qr/(?:[1-5]?\d s|1 min 0 s)/;
}


sub until_midnight {
    return 86400 - int(time) % 86400;
}


sub admitted {
    my ($answer, $name) = @_;

    Test::More::is($answer->{status}, 200, $name)
        or Test::More::diag($answer->{raw});
    return $answer;
}


sub message_of {
    my ($answer) = @_;

    my $got = eval { JSON::PP->new->decode($answer->{body}) } // {};
    my $error = ref $got eq 'HASH' ? $got->{error} : undef;

    return (ref $error ? $error->{message} : $error) // '';
}


# denied(ANSWER, FORMAT, STATUS, TYPE, CODE, PATTERN, NAME): the whole answer
# of a refusal in the format's family: type and code as OpenAI has them, or
# TYPE "anthropic's type" where the format is of that family.

my %anthropic = (
    401 => 'authentication_error', 403 => 'permission_error',
    429 => 'rate_limit_error', 400 => 'invalid_request_error',
    503 => 'api_error',
);

sub denied {
    my ($answer, $format, $status, $type, $code, $pattern, $name) = @_;

    my $family = family_of($format);
    my $got = eval { JSON::PP->new->decode($answer->{body}) };
    my $message = message_of($answer);
    my $want;

    $name = "$format: $name";

    if ($family eq 'openai') {
        $want = { error => { message => $message, type => $type,
                             param => $status == 403 ? 'model' : undef,
                             code => $code } };

    } elsif ($family eq 'anthropic') {
        $want = { type => 'error', request_id => $answer->{id},
                  error => { type => $anthropic{$status},
                             message => $message } };
    } else {
        $want = { error => $message };
    }

    Test::More::is($answer->{status}, $status, "$name: the status")
        or Test::More::diag($answer->{raw});
    Test::More::is_deeply($got, $want, "$name: the whole body")
        or Test::More::diag($answer->{raw});
    Test::More::like($message, qr/\A$pattern\z/, "$name: the sentence");
    Test::More::is($answer->{header}{'content-type'}, 'application/json',
                   "$name: the type");

    return $answer;
}


# limited_headers(ANSWER, NAME, HEADER => PATTERN or undef, ...)

sub limited_headers {
    my ($answer, $name, %want) = @_;

    for my $header (sort keys %want) {
        my $got = $answer->{header}{$header};
        my $like = $want{$header};

        defined $like ? Test::More::like($got // '', qr/\A$like\z/,
                                         "$name: $header")
                      : Test::More::is($got, undef, "$name: no $header");
    }
}


# early(): a clock minute must not end in the middle of what follows.

sub early {
    my ($seconds) = @_;

    sleep 0.05 while time % 60 >= 60 - ($seconds // 8);
}


# usage(TOKEN): /v1/usage; used(LIMIT, TOKEN): one count; becomes_used() waits
# until it is that.

sub usage {
    my ($token) = @_;

    my $answer = Clawd::Observe::exchange(
        'GET', '/v1/usage', undef,
        Authorization => 'Bearer ' . ($token // 'sk-alice'));
    my $usage = eval { JSON::PP->new->decode($answer->{body}) } // {};

    return { %$usage, answer => $answer,
             map { $_->{name} => $_ } @{ $usage->{limits} // [] } };
}

sub used {
    my ($limit, $token) = @_;
    return usage($token)->{$limit}{used};
}

sub becomes_used {
    my ($want, $name, $token, $limit) = @_;
    my $got;

    $limit //= 'tokens_per_day';

    wait_until(sub { ($got = used($limit, $token) // 'nothing') eq $want }, 5);
    Test::More::is($got, $want, $name);
}


# unheld(TOKEN): nothing of the user is in flight.

sub unheld {
    my ($name, $token) = @_;
    becomes_used(0, $name // 'nothing is held', $token, 'concurrency');
}


# saw(N): how many requests have reached the upstream.

sub saw {
    my ($count, $name) = @_;

    my $upstream = Clawd::Upstream::upstream();

    $upstream->wait_for($count) if $count;
    Test::More::is(scalar(my @all = $upstream->requests), $count,
                   $name // "the upstream saw $count");
}


1;
