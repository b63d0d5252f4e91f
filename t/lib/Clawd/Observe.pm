package Clawd::Observe;

# What blocks about answers have in common, on top of Clawd::Gate, which it
# brings along together with Clawd::Client and Clawd::Upstream: the log of
# clawd_log.conf in logs/clawd.log, the page /metrics, and the answers that an
# upstream gives in each format.  Sections that a block writes itself win.
#
# --- logged: NAME=VALUE ... expects these fields in the log line of each
# request of the block (a list: one for each request).
#
# --- counted expects, once the last answer was read, these lines of /metrics,
# without their "clawdbot_".
#
# A block with --- init and without --- request asks for /metrics in the end.

use strict;
use warnings;

use JSON::PP ();
use Test::More ();
use Test::Nginx::Socket ();
use Time::HiRes qw(sleep);

use Clawd::Client;
use Clawd::Gate ();
use Clawd::Upstream ();

my $blocks = 0;
my $requests = 0;


sub import {
    my ($class, @names) = @_;
    my $caller = caller;

    no strict 'refs';
    *{"${caller}::$_"} = \&$_
        for qw(ask asked body_of conf deliver events exchange formats framing_of
               h2 h2_conf http inband log_of metric becomes);

    my $known = Test::Nginx::Socket->can('known_sections');
    $known->(qw(logged counted)) if $known;

    eval "package $caller; Clawd::Gate->import(\@names);"
         . ' Clawd::Client->import; 1' or die $@;

    Clawd::Gate::gate_default(
        http_config => http(),
        config      => conf(''));

    Test::Nginx::Socket::add_block_preprocessor(\&prepare);
    Test::Nginx::Socket::add_response_body_check(\&check);
}


# http(MORE): the usual http_config, and MORE.

sub http {
    my $log = Clawd::Gate::proxy_conf() =~ s/_proxy(\.conf)$/_log$1/r;

    return Clawd::Gate::gate_http("include $log;", @_);
}


# conf(MORE): the usual server's inside, with MORE in the location.

sub conf {
    my ($more) = @_;

    return "access_log logs/clawd.log clawd_json;\n"
           . "location = /metrics { clawd off; clawd_metrics; }\n"
           . "location / {\n"
           . "clawd_pass http://127.0.0.1:\$TEST_NGINX_UPSTREAM_PORT;\n"
           . "$more\n}\n";
}


# h2_conf(): the usual http_config with a server for HTTP/2 besides, which
# h2(PATH, ARGUMENTS OF CURL...) asks.

sub h2_conf {
    return http('server {',
                'listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1 http2;',
                conf(''), '}');
}

sub h2_port {
    open my $in, '<', Test::Nginx::Socket::server_root() . '/conf/nginx.conf'
        or die "no configuration: $!\n";
    my $text = do { local $/; <$in> };

    return ($text =~ /listen 127\.0\.0\.1:(\d+) http2/)[0];
}

sub h2 {
    my ($path, @arguments) = @_;

    return curl('--http2-prior-knowledge', '-H',
                'Authorization: Bearer sk-alice', @arguments,
                'http://127.0.0.1:' . h2_port() . $path);
}


# Each block's requests have an id of their own, by which the log is found.

sub prepare {
    my ($block) = @_;

    return if $block->{clawd_id};

    $block->{clawd_id} = "t-$$-" . ++$blocks;

    if (!defined $block->request && !defined $block->raw_request) {
        $block->set_value(request => 'GET /metrics');
    }

    return if !defined $block->logged;

    my $id = "X-Request-Id: $block->{clawd_id}";
    my $more = $block->more_headers // 'Authorization: Bearer sk-alice';

    $block->set_value(more_headers => ref $more ? [map { "$_\n$id" } @$more]
                                                : "$more\n$id");
}


sub check {
    my ($block, undef, $i) = @_;

    if (defined(my $logged = $block->logged)) {
        $logged = $logged->[$i] if ref $logged;
        compare_log($block, $logged, $i);
    }

    my $list = $block->request;
    my $last = ref $list ? $#$list : 0;

    if (defined $block->counted && $i == $last) {
        for my $line (grep { length } split /\n/, $block->counted) {
            my ($series, $value) = $line =~ /^\s*(\S+)\s+(\S+)\s*$/
                or die "bad line in --- counted: $line\n";
            becomes($series, $value, $block->name . " - $series");
        }
    }
}


sub compare_log {
    my ($block, $logged, $i) = @_;

    my $got = log_of($block->{clawd_id}, $i);

    for my $pair (split ' ', $logged) {
        my ($name, $value) = split /=/, $pair, 2;
        Test::More::is($got->{$name}, $value,
                       $block->name . " - $name in the log");
    }
}


# log_of(ID, N): the log line of the request with this id, or of the N-th from
# 0 of them, as a hash; waits for it.

sub log_of {
    my ($id, $n) = @_;
    my @lines;

    wait_until(sub {
        open my $in, '<', Test::Nginx::Socket::server_root()
                          . '/logs/clawd.log' or return 0;
        @lines = grep { /\n\z/ && /"request_id":"\Q$id\E"/ } <$in>;
        return @lines > ($n // 0);
    }, 3);

    my $line = $lines[$n // 0] // return {};
    return eval { JSON::PP->new->latin1->decode($line) } // { bad => $line };
}


# metric(SERIES): its value now; becomes() waits for a value.

sub metric {
    my ($series) = @_;
    my $client = client();

    $client->request('GET', '/metrics', undef, Connection => 'close');
    my $page = $client->read_all // '';
    $client->close;

    return $page =~ /^clawdbot_\Q$series\E (\S+)\r?$/m ? $1 : undef;
}

sub becomes {
    my ($series, $value, $name) = @_;
    my $got;

    wait_until(sub { ($got = metric($series) // '') eq $value }, 5);
    Test::More::is($got, $value, $name // $series);
}


# The formats and what an upstream answers in them

my %chunk_of = (
    chat => sub {
        return 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk",'
               . '"created":1,"model":"m","choices":' . $_[0] . "}\n\n";
    },
    completions => sub {
        return 'data: {"id":"cmpl-1","object":"text_completion","created":1,'
               . '"choices":' . $_[0] . ',"model":"m"' . ($_[1] // '')
               . "}\n\n";
    },
);

my $usage = '"usage":{"prompt_tokens":26,"completion_tokens":10,'
            . '"total_tokens":36}';

sub named {
    my ($type, $rest) = @_;
    return "event: $type\ndata: {\"type\":\"$type\",$rest}\n\n";
}

my %formats = (

    # the usage event is the last but one

    chat => {
        path => '/v1/chat/completions', finish => 'stop',
        request => '"messages":[{"role":"user","content":"hi"}]',
        events => [
            (map { $chunk_of{chat}->('[{"index":0,"delta":{' . $_
                                     . '},"finish_reason":null}]') }
                 '"role":"assistant","content":"Hel"', '"content":"lo"'),
            $chunk_of{chat}->('[{"index":0,"delta":{},'
                              . '"finish_reason":"stop"}]'),
            $chunk_of{chat}->('[],' . $usage),
            "data: [DONE]\n\n"],
    },

    completions => {
        path => '/v1/completions', finish => 'stop',
        request => '"prompt":"hi"',
        events => [
            (map { $chunk_of{completions}->('[{"text":"' . $_ . '","index":0,'
                                            . '"finish_reason":null}]') }
                 'Hel', 'lo'),
            $chunk_of{completions}->('[{"text":"","index":0,'
                                     . '"finish_reason":"stop"}]'),
            $chunk_of{completions}->('[]', ",$usage"),
            "data: [DONE]\n\n"],
    },

    responses => {
        path => '/v1/responses', finish => 'completed',
        request => '"input":"hi"',
        events => [
            named('response.created', '"sequence_number":0,"response":'
                  . '{"id":"resp_1","status":"in_progress","model":"m",'
                  . '"usage":null}'),
            (map { named('response.output_text.delta', '"sequence_number":'
                         . $_->[0] . ',"output_index":0,"delta":"' . $_->[1]
                         . '"') } [1, 'Hel'], [2, 'lo']),
            named('response.completed', '"sequence_number":3,"response":'
                  . '{"id":"resp_1","status":"completed","model":"m",'
                  . '"output":[],"usage":{"input_tokens":26,'
                  . '"output_tokens":10,"total_tokens":36}}')],
    },

    messages => {
        path => '/v1/messages', finish => 'end_turn',
        request => '"max_tokens":64,"messages":[{"role":"user",'
                   . '"content":"hi"}]',
        events => [
            named('message_start', '"message":{"id":"msg_1","type":"message",'
                  . '"role":"assistant","model":"m","content":[],'
                  . '"stop_reason":null,"usage":{"input_tokens":4,'
                  . '"output_tokens":0}}'),
            named('content_block_start', '"index":0,"content_block":'
                  . '{"type":"text","text":""}'),
            (map { named('content_block_delta', '"index":0,"delta":'
                         . '{"type":"text_delta","text":"' . $_ . '"}') }
                 'Hel', 'lo'),
            named('content_block_stop', '"index":0'),
            named('message_delta', '"delta":{"stop_reason":"end_turn"},'
                  . '"usage":{"input_tokens":26,"output_tokens":10}'),
            named('message_stop', '"index":0')],
    },

    native => {
        path => '/api/chat', finish => 'stop',
        request => '"messages":[{"role":"user","content":"hi"}]',
        events => [
            (map { '{"model":"m","created_at":"2026-01-01T00:00:00Z",'
                   . '"message":{"role":"assistant","content":"' . $_
                   . "\"},\"done\":false}\n" } 'Hel', 'lo'),
            '{"model":"m","created_at":"2026-01-01T00:00:00Z",'
            . '"message":{"role":"assistant","content":""},"done":true,'
            . '"done_reason":"stop","prompt_eval_count":26,'
            . "\"eval_count\":10}\n"],
    },

    generate => {
        path => '/api/generate', finish => 'stop',
        request => '"prompt":"hi"',
        events => [
            (map { '{"model":"m","created_at":"2026-01-01T00:00:00Z",'
                   . '"response":"' . $_ . "\",\"done\":false}\n" }
                 'Hel', 'lo'),
            '{"model":"m","created_at":"2026-01-01T00:00:00Z",'
            . '"response":"","done":true,"done_reason":"stop",'
            . '"context":[1,2,3],"prompt_eval_count":26,'
            . "\"eval_count\":10}\n"],
    },
);

sub formats {
    return sort keys %formats;
}


# events(FORMAT): the events or lines of a whole generation of 26 and 10
# tokens, two of which carry output; body_of(FORMAT): all of it; framing_of():
# its type.

sub events {
    return @{ $formats{ $_[0] }{events} };
}

sub body_of {
    return join '', events(@_);
}

sub framing_of {
    return $formats{ $_[0] }{path} =~ m{^/api} ? 'application/x-ndjson'
                                               : 'text/event-stream';
}


# asked(FORMAT, REST): path and body of a request for a stream; REST is more
# of its JSON.  ask() is the same for --- request eval.

sub asked {
    my ($format, $rest) = @_;

    return $formats{$format}{path},
           qq({"model":"m",$formats{$format}{request},"stream":true)
           . ($rest // '') . '}';
}

sub ask {
    my ($path, $body) = asked(@_);
    return "POST $path\n$body";
}


# inband(FORMAT, N): the error event of a generation that ended incomplete
# behind N events.

sub inband {
    my ($format, $n) = @_;

    my $text = 'the generation ended before it was complete';
    my $openai = '"type":"server_error","param":null,'
                 . '"code":"upstream_error"';

    return "{\"error\":\"$text\"}\n"
        if $formats{$format}{path} =~ m{^/api};

    return "event: error\ndata: {\"type\":\"error\",\"error\":"
           . "{\"type\":\"api_error\",\"message\":\"$text\"}}\n\n"
        if $format eq 'messages';

    return "event: error\ndata: {\"type\":\"error\",\"code\":"
           . "\"upstream_error\",\"message\":\"$text\",\"param\":null,"
           . "\"sequence_number\":$n,\"error\":{\"message\":\"$text\",$openai}"
           . "}\n\n"
        if $format eq 'responses';

    return "data: {\"error\":{\"message\":\"$text\",$openai}}\n\n";
}


# deliver(WAY, TYPE, BODY): the steps of an answer that brings BODY so:
#
#   whole        one chunk
#   bytes        a chunk for each byte, all at once
#   mod:N:I      chunks that end at each byte I, I + N, ...
#   at:N         two chunks, the second after the first was read
#   raw:N        segments of N bytes, wherever the chunks' frames are
#   length       with its Content-Length
#   close        up to the end of the connection
#   cut          one chunk, and FIN in place of the last one
#   reset:GATE   one chunk, and RST when the gate is opened

sub deliver {
    my ($way, $type, $body) = @_;

    my $head = Clawd::Upstream::stream($type);
    my @pause = ({ pause => 0.003 });

    if ($way eq 'bytes') {
        return join '', $head, chunks(split //, $body), chunks();
    }

    if ($way =~ /^mod:(\d+):(\d+)$/) {
        my ($first, $rest) = $2 ? (substr($body, 0, $2), substr($body, $2))
                                : ('', $body);
        return join '', $head, chunks(grep { length } $first,
                                     unpack "(a$1)*", $rest), chunks();
    }

    if ($way =~ /^at:(\d+)$/) {
        return $head . join('', chunks(substr $body, 0, $1)), @pause,
               join '', chunks(substr $body, $1), chunks();
    }

    if ($way =~ /^raw:(\d+)$/) {
        my $bytes = join '', $head, chunks($body), chunks();
        return map { ($_, @pause) } unpack "(a$1)*", $bytes;
    }

    if ($way eq 'length') {
        return Clawd::Upstream::reply(200, $body, 'Content-Type' => $type);
    }

    if ($way eq 'close') {
        return "HTTP/1.1 200 OK\r\nContent-Type: $type\r\n"
               . "Connection: close\r\n\r\n$body";
    }

    if ($way =~ /^(?:cut|reset:(.*))$/) {

        # what a RST overtakes is lost: it waits until all was read

        return join('', $head, length $body ? chunks($body) : ()),
               defined $1 ? ({ gate => $1 }, { reset => 1 }) : { close => 1 };
    }

    return join '', $head, chunks($body), chunks() if $way eq 'whole';
    die "no way $way\n";
}


# exchange(METHOD, URI, BODY, HEADERS...): a request of its own and the whole
# answer, as a hash: id, status, head, header (by lower case name), body,
# whole (its end was told and came), raw.

sub exchange {
    my ($method, $uri, $body, @headers) = @_;

    my $client = client();
    my $id = "x-$$-" . ++$requests;
    my %header = (Authorization => 'Bearer sk-alice', 'X-Request-Id' => $id,
                  Connection => 'close', @headers);

    $client->request($method, $uri, $body, %header);

    my $answer = parse($client->read_all // $client->{buffer});
    $answer->{id} = $id;
    $client->close;

    return $answer;
}


# Clawd::Upstream is imported where the blocks are

sub chunks {
    return Clawd::Upstream::chunk(@_);
}


sub parse {
    my ($raw) = @_;

    my ($head, $rest) = $raw =~ /\A(.*?\r\n)\r\n(.*)\z/s
        or return { status => 0, head => '', header => {}, body => '',
                    whole => 0, raw => $raw };

    my %header;
    $header{lc $1} = $2 while $head =~ /^([^:\r\n]+): *([^\r\n]*)\r$/mg;

    my ($status) = $head =~ /^\S+ (\d+)/;
    my ($body, $whole) = ($rest, 1);

    if (($header{'transfer-encoding'} // '') eq 'chunked') {
        ($body, $whole) = dechunk($rest);

    } elsif (defined $header{'content-length'}) {
        $whole = length $rest == $header{'content-length'};
    }

    return { status => $status, head => $head, header => \%header,
             body => $body, whole => $whole ? 1 : 0, raw => $raw };
}


sub dechunk {
    my ($rest) = @_;
    my $body = '';

    while ($rest =~ s/\A([0-9a-f]+)\r\n//i) {
        my $size = hex $1;

        return ($body, $rest eq "\r\n") if $size == 0;
        $body .= substr $rest, 0, $size, '';
        $rest =~ s/\A\r\n// or last;
    }

    return ($body, 0);
}


1;
