# Answers pass as they came: no byte is changed where there is nothing to
# drop or to add, and what they say is known in the end.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


# Each format in each way that an upstream may bring it.

our $usage = ',"stream_options":{"include_usage":true}';

sub script {
    my ($request) = @_;
    my ($format, $way) = split ' ', $request->{headers}{'x-case'};

    return deliver($way, framing_of($format), body_of($format));
}

sub every_way {
    my (@ways) = @_;
    my $n = 0;

    for my $format (formats()) {
        for my $way (@ways) {
            my $answer = exchange('POST', asked($format, $usage),
                                  'X-Case' => "$format $way");
            my $log = log_of($answer->{id});
            my $name = "$format $way";

            Test::More::is($answer->{status}, 200, "$name: status");
            Test::More::is($answer->{body}, body_of($format),
                           "$name: the bytes");
            Test::More::ok($answer->{whole}, "$name: the end");
            Test::More::is_deeply(
                [@$log{qw(model prompt_tokens completion_tokens usage_source
                          error)}],
                ['m', 26, 10, 'upstream', ''], "$name: the log");
            $n++;
        }
    }

    becomes('model_request_total{model="m"}', $n);
    becomes('tokens_total{model="m",type="prompt"}', 26 * $n);
    becomes('tokens_total{model="m",type="completion"}', 10 * $n);
    becomes('usage_source_total{source="upstream"}', $n);
    becomes('time_to_first_token_seconds_count{model="m"}', $n);
    becomes('requests_in_flight{model="m"}', 0);
}


# What else may stand in a stream.  A case is its body and what is logged.

our $first = (events('chat'))[0];
our ($finish, $total, $done) = (events('chat'))[2 .. 4];

# with(EVENT, COUNTS): the event with a usage of its own.

sub with {
    my ($event, $counts) = @_;
    return $event =~ s/\}\n\n/,"usage":{$counts}}\n\n/r;
}

sub delta {
    return 'data: {"model":"m","choices":[{"index":0,"delta":{"content":"'
           . $_[0] . '"},"finish_reason":null}]' . ($_[1] // '') . "}\n\n";
}

our %cases = (
    'CRLF' => [body_of('chat') =~ s/\n/\r\n/gr, 26, 10],
    'CR' => [body_of('chat') =~ s/\n/\r/gr, 26, 10],
    'a BOM' => ["\xef\xbb\xbf" . body_of('chat'), 26, 10],
    'no space' => [body_of('chat') =~ s/data: /data:/gr, 26, 10],
    'comments' => [": hello\n\n" . join(": ping\n\n", events('chat'))
                   . ": bye\n\n", 26, 10],
    'other fields' => ["retry: 3000\nid: 7\n" . body_of('chat'),
                       26, 10],
    'data in lines' =>
        [body_of('chat') =~ s/,"choices"/,\ndata: "choices"/gr, 26, 10],
    'no [DONE]' => ["$first$finish$total", 26, 10],
    'more than [DONE]' => ["$first$finish$total$done" . delta('x') . $done,
                           26, 10],
    'usage twice' => ["$first$finish$total$total$done", 26, 10],
    'usage at the finish' =>
        [$first . with($finish, '"prompt_tokens":3,"completion_tokens":2')
         . $done, 3, 2],
    'running usage' =>
        [delta('a', ',"usage":{"prompt_tokens":26,"completion_tokens":1}')
         . delta('b', ',"usage":{"prompt_tokens":26,"completion_tokens":2}')
         . "$finish$total$done", 26, 10],
    'null usage' => [join('', delta('a', ',"usage":null'),
                          $finish =~ s/\}\n\n/,"usage":null}\n\n/r, $total,
                          $done), 26, 10],
    'talk of usage' =>
        [delta('data: [DONE]\n\n{\"usage\":{\"prompt_tokens\":9}}')
         . delta('event: error\ndata: {\"error\":{}}') . "$finish$total$done",
         26, 10],
    'UTF-8 and escapes' =>
        [delta("\xe4\xbd\xa0\xe5\xa5\xbd \\ud83d\\ude00 \\\\ \\\" \xf0\x9f\x98"
               . "\x80") . "$finish$total$done", 26, 10],
    'a long event' => [delta('y' x 100000) . "$finish$total$done", 26, 10],
    'negative counts' =>
        [$first . $finish . 'data: {"choices":[],"usage":{"prompt_tokens":-5,'
         . '"completion_tokens":"many"}}' . "\n\n$done", undef, 1],
    'no usage' => ["$first$finish$done", undef, 1],
);

our $lines = '{"model":"m","response":"' . 'z' x 4000000 . '","done":false}'
    . "\n" . '{"model":"m","response":"","done":true,"context":['
    . '1,' x 2000000 . '1],"prompt_eval_count":26,"eval_count":10}' . "\n";

our $vectors = '{"object":"list","data":[{"embedding":[' . '0.125,' x 1300000
    . '1]}],"usage":{"prompt_tokens":8,"total_tokens":8}}';

sub script_case {
    my ($request) = @_;
    my ($case, $way) = split '/', $request->{headers}{'x-case'};

    return deliver($way, 'text/event-stream', $cases{$case}[0]);
}

sub every_case {
    for my $case (sort keys %cases) {
        my ($body, $prompt, $completion) = @{ $cases{$case} };

        for my $way ('whole', length $body < 5000 ? 'bytes' : 'mod:997:5',
                     'mod:3:1')
        {
            my ($path, $asked) = asked('chat', $usage);
            my $answer = exchange('POST', $path, $asked,
                                  'X-Case' => "$case/$way");
            my $log = log_of($answer->{id});

            Test::More::ok($answer->{body} eq $body, "$case, $way: the bytes")
                or Test::More::diag($answer->{body});
            Test::More::ok($answer->{whole}, "$case, $way: the end");
            Test::More::is_deeply(
                [@$log{qw(completion_tokens usage_source finish_reason
                          error)}],
                [$completion, defined $prompt ? 'upstream' : 'counted',
                 'stop', ''], "$case, $way: the log");

            # of a prompt that nobody counted, four bytes are a token

            $prompt //= int(length($asked) / 4);
            Test::More::is($log->{prompt_tokens}, $prompt,
                           "$case, $way: the prompt");
            undef $prompt if !defined $cases{$case}[1];
        }
    }
}

run_tests();

__DATA__

=== streams of all formats, whole, in bytes, by length and by close
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::every_way(qw(whole bytes length close mod:7:3));



=== streams of all formats, cut into segments
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::every_way(qw(raw:53 at:5));



=== what else may stand in a stream
--- upstream eval
[sub { main::script_case($_[0]) }]
--- init
main::every_case();



=== the headers of a stream
--- upstream eval
[main::stream('text/event-stream; charset=utf-8', 'X-Node' => 'a',
              'Cache-Control' => 'max-age=9', 'X-Request-Id' => 'theirs',
              'X-Accel-Buffering' => 'yes', 'Keep-Alive' => 'timeout=5',
              'Connection' => 'keep-alive'),
 main::chunk(main::events('chat')), main::chunk()]
--- request eval: main::ask('chat', $::usage)
--- more_headers
Authorization: Bearer sk-alice
X-Request-Id: mine
--- response_headers
Content-Type: text/event-stream; charset=utf-8
Transfer-Encoding: chunked
Cache-Control: no-cache
X-Accel-Buffering: no
X-Request-Id: mine
X-Node: a
!Keep-Alive
!Content-Length
!Request-Id
Connection: close
--- raw_response_headers_unlike: (?i)theirs|max-age|buffering: yes
--- response_body eval: main::body_of('chat')



=== the headers of a stream of messages
--- upstream eval
[main::deliver('whole', 'text/event-stream',
               main::body_of('messages'))]
--- request eval: main::ask('messages')
--- more_headers
Authorization: Bearer sk-alice
X-Request-Id: mine
--- response_headers
x-request-id: mine
request-id: mine
--- response_body eval: main::body_of('messages')



=== a whole answer keeps its length and its headers
--- upstream eval
[main::reply(200, '{"model":"m","choices":[{"index":0,"message":{"content":'
    . '"hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":5,'
    . '"completion_tokens":7}}' . "\n", 'Cache-Control' => 'max-age=9')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_headers
Content-Length: 140
Cache-Control: max-age=9
!X-Accel-Buffering
--- response_body
{"model":"m","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":7}}
--- logged: prompt_tokens=5 completion_tokens=7 usage_source=upstream finish_reason=length ttft= error=
--- counted
tokens_total{model="m",type="prompt"} 5
tokens_total{model="m",type="completion"} 7



=== a whole answer in chunks
--- upstream eval
[main::stream('application/json'),
 main::chunk(split //, '{"choices":[{"index":0,"message":{"content":"hi"},'
    . '"finish_reason":"stop"}],"usage":{"prompt_tokens":5,'
    . '"completion_tokens":7}}'), main::chunk()]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body chomp
{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":7}}
--- logged: prompt_tokens=5 completion_tokens=7 usage_source=upstream finish_reason=stop error=



=== one JSON value although a stream was asked for
--- upstream eval
[main::reply(200, '{"model":"m","created_at":"x","response":"","done":true,'
    . '"done_reason":"load"}',
    'Content-Type' => 'application/json; charset=utf-8')]
--- request eval: main::ask('generate')
--- response_body chomp
{"model":"m","created_at":"x","response":"","done":true,"done_reason":"load"}
--- logged: prompt_tokens=0 completion_tokens=0 finish_reason=load error=



=== lines although events were asked for: read as what they are
--- upstream eval
[main::deliver('whole', 'application/x-ndjson', main::body_of('native'))]
--- request eval: main::ask('native')
--- response_body eval: main::body_of('native')
--- logged: prompt_tokens=26 completion_tokens=10 error=



=== 200 with an error in it
--- upstream eval
[main::reply(200, '{"error":"the model is broken"}')]
--- request
POST /api/chat
{"model":"m","messages":[],"stream":false}
--- response_body chomp
{"error":"the model is broken"}
--- logged: error=incomplete prompt_tokens= completion_tokens=
--- counted
model_error_total{model="m",error_type="incomplete"} 1



=== answers of 8 MB, in lines and as one value
--- upstream eval
{ '/api/generate' => [main::deliver('whole', 'application/x-ndjson',
                                    $::lines)],
  '/v1/embeddings' => [main::reply(200, $::vectors)] }
--- request eval
[main::ask('generate'),
 "POST /v1/embeddings\n{\"model\":\"m\",\"input\":\"x\"}"]
--- response_body eval: [$::lines, $::vectors]
--- timeout: 15
--- logged eval
['prompt_tokens=26 completion_tokens=10 usage_source=upstream error=',
 'prompt_tokens=8 completion_tokens=0 usage_source=upstream error=']
