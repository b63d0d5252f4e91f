package Clawd::Gate;

# What most blocks about the gate have in common: two tokens, one location in
# front of the scripted upstream, and answers of the right shape.  Sections
# that a block writes itself win.  It brings Clawd::Upstream along.
#
#   http_config   a zone, the token sk-alice of a user, sk-root of an admin,
#                 and clawd_proxy.conf
#   config        "location /" with clawd_pass to the upstream
#   more_headers  Authorization: Bearer sk-alice
#   upstream      answer(REQUEST), for each request
#   no_error_log  [error], unless the block expects a line
#
# gate_default(SECTION => TEXT, ...) gives a file other defaults.
#
# --- refused: FAMILY STATUS CODE [PARAM] expects an answer of the gateway's
# own to each request of the block: the status, the whole body in the shape of
# the family (openai, anthropic or ollama), the headers that belong to it, and
# that nothing reached the upstream, unless the block has an upstream_count.
# --- message: TEXT is what the message of that body says.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use JSON::PP ();
use Test::More ();
use Test::Nginx::Socket ();

use Clawd::Upstream ();

my $home = abs_path(dirname(abs_path(__FILE__)) . '/../../..');

my %given;

my %openai_type = (
    403 => 'permission_error', 404 => 'not_found_error',
    map({ $_ => 'server_error' } 500, 502, 503, 504),
);

my %anthropic_type = (
    401 => 'authentication_error', 403 => 'permission_error',
    404 => 'not_found_error', 413 => 'request_too_large',
    503 => 'overloaded_error', map({ $_ => 'api_error' } 500, 502, 504),
);

my %extra_header = (
    401 => 'WWW-Authenticate: Bearer', 415 => 'Accept-Encoding: identity',
    503 => 'Retry-After: [1-9]\d?', 504 => 'x-should-retry: false',
);


# The two runners call preprocessors in opposite orders, and the upstream's
# own wants the defaults: they are set twice, the second time to no effect.

sub import {
    my ($class, @names) = @_;
    my $caller = caller;

    no strict 'refs';
    *{"${caller}::$_"} = \&$_ for qw(gate_default gate_http proxy_conf);

    Test::Nginx::Socket::no_root_location();

    my $known = Test::Nginx::Socket->can('known_sections');
    $known->(qw(refused message)) if $known;

    Test::Nginx::Socket::add_block_preprocessor(\&defaults);

    eval "package $caller; Clawd::Upstream->import(\@names); 1" or die $@;

    Test::Nginx::Socket::add_block_preprocessor(\&defaults);
    Test::Nginx::Socket::add_response_body_check(\&check);
}


sub gate_default {
    %given = @_;
}


sub proxy_conf {
    return "$home/clawd_proxy.conf";
}


# gate_http(MORE): the usual http_config, and MORE.

sub gate_http {
    return join "\n", 'clawd_zone clawd:1m;',
                      'clawd_token sk-alice user=alice;',
                      'clawd_token sk-root user=root role=admin;',
                      'include ' . proxy_conf() . ';', @_;
}


sub defaults {
    my ($block) = @_;

    my %default = (
        http_config  => gate_http(),
        config       => 'location / { clawd_pass '
                        . 'http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }',
        more_headers => 'Authorization: Bearer sk-alice',
        upstream     => [sub { answer($_[0]) }],
        %given,
    );

    $default{no_error_log} = "[error]\n"
        if !defined $block->error_log && !defined $block->must_die
           && !defined $block->refused;

    for my $section (keys %default) {
        $block->set_value($section, $default{$section})
            if !defined $block->$section;
    }

    refused($block) if defined $block->refused && !$block->{clawd_refused}++;
}


sub refused {
    my ($block) = @_;

    my ($family, $status) = split ' ', $block->refused;

    my @headers = ('Content-Type: application/json', 'Content-Length: \d+',
                   'x-request-id: [A-Za-z0-9_-]{1,64}',
                   $family eq 'anthropic' ? 'request-id: [A-Za-z0-9_-]{1,64}'
                                          : (),
                   $extra_header{$status} // ());

    my $request = $block->request;
    my $count = ref $request && @$request > 1 ? @$request : 0;
    my $each = sub { $count ? [($_[0]) x $count] : $_[0] };

    $block->set_value(error_code => $each->($status))
        if !defined $block->error_code;
    $block->set_value(response_headers_like => $each->(join "\n", @headers))
        if !defined $block->response_headers_like;
    $block->set_value(upstream_count => 0)
        if !defined $block->upstream_count;
}


sub check {
    my ($block, $body) = @_;

    return if !defined $block->refused;

    my ($family, $status, $code, $param) = split ' ', $block->refused;
    my $title = $block->name . ' - refused';

    my $got = eval { JSON::PP->new->decode($body) };
    my $error = ref $got ? $got->{error} : undef;
    my $message = ref $error ? $error->{message} : $error;

    if (!defined $message || ref $message || $message eq '') {
        Test::More::fail("$title: an error body");
        Test::More::diag($body // 'nothing');
        return;
    }

    my $want = { error => $message };

    if ($family eq 'openai') {
        $want = { error => {
            message => $message, code => $code, param => $param,
            type => $openai_type{$status} // 'invalid_request_error' } };

    } elsif ($family eq 'anthropic') {
        Test::More::like(delete $got->{request_id} // '',
                         qr/^[A-Za-z0-9_-]{1,64}$/, "$title: request_id");

        $want = { type => 'error', error => {
            message => $message,
            type => $anthropic_type{$status} // 'invalid_request_error' } };
    }

    Test::More::is_deeply($got, $want, "$title: the whole body")
        or Test::More::diag($body);

    if (defined(my $text = $block->message)) {
        $text =~ s/\s+\z//;
        Test::More::is($message, $text, "$title: the message");
    }
}


# answer(REQUEST): a complete answer that fits the request's path.

sub answer {
    my ($request) = @_;

    my ($path) = $request->{uri} =~ /^([^?]*)/;
    my $stream = $request->{body} =~ /"stream":true/;

    my $usage = '"usage":{"prompt_tokens":3,"completion_tokens":2,'
                . '"total_tokens":5}';

    if ($stream && $path eq '/v1/chat/completions') {
        return Clawd::Upstream::stream('text/event-stream'),
               Clawd::Upstream::sse(
                   '{"model":"m","choices":[{"index":0,"delta":{"content":'
                   . '"hi"},"finish_reason":null}]}',
                   '{"model":"m","choices":[{"index":0,"delta":{},'
                   . '"finish_reason":"stop"}]}',
                   '{"model":"m","choices":[],' . $usage . '}', '[DONE]'),
               Clawd::Upstream::chunk();
    }

    my %body = (
        '/v1/chat/completions' =>
            '{"model":"m","choices":[{"index":0,"message":{"role":"assistant"'
            . ',"content":"hi"},"finish_reason":"stop"}],' . $usage . '}',
        '/v1/completions' =>
            '{"model":"m","choices":[{"index":0,"text":"hi",'
            . '"finish_reason":"stop"}],' . $usage . '}',
        '/v1/embeddings' =>
            '{"object":"list","data":[{"embedding":[0.1]}],'
            . '"usage":{"prompt_tokens":3,"total_tokens":3}}',
        '/v1/responses' =>
            '{"object":"response","status":"completed","output":[],'
            . '"usage":{"input_tokens":3,"output_tokens":2}}',
        '/v1/messages' =>
            '{"type":"message","content":[{"type":"text","text":"hi"}],'
            . '"stop_reason":"end_turn",'
            . '"usage":{"input_tokens":3,"output_tokens":2}}',
        '/api/embed' => '{"embeddings":[[0.1]],"prompt_eval_count":3}',
        '/api/embeddings' => '{"embedding":[0.1]}',
    );

    $body{$_} = '{"model":"m","response":"hi","message":{"role":"assistant",'
                . '"content":"hi"},"done":true,"done_reason":"stop",'
                . '"prompt_eval_count":3,"eval_count":2}'
        for '/api/chat', '/api/generate';

    return Clawd::Upstream::reply(200, $body{$path} // '{"ok":true}');
}


1;
