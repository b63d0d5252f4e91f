# Compressed answers pass as they are, and are read all the same.

use strict;
use warnings;

use IO::Compress::Deflate ();
use IO::Compress::Gzip ();
use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


sub compressed {
    my ($how, $text) = @_;
    my $out;

    $how eq 'gzip' ? IO::Compress::Gzip::gzip(\$text, \$out, -Time => 0)
                   : IO::Compress::Deflate::deflate(\$text, \$out)
        or die "cannot compress\n";
    return $out;
}

our $answer = '{"model":"m","choices":[{"index":0,"message":{"content":"hi"},'
    . '"finish_reason":"stop"}],"usage":{"prompt_tokens":26,'
    . '"completion_tokens":10}}';

our $bomb = '{"model":"m","choices":[{"index":0,"message":{"content":"'
    . '0' x 20_000_000 . '"},"finish_reason":"stop"}],"usage":'
    . '{"prompt_tokens":26,"completion_tokens":10}}';

sub script {
    my ($request) = @_;
    my ($format, $how, $way) = split ' ', $request->{headers}{'x-case'};
    my $type = framing_of($format);

    my ($first, @rest) = deliver($way, $type,
                                 compressed($how, body_of($format)));
    $first =~ s/\r\n/\r\nContent-Encoding: $how\r\n/;
    return $first, @rest;
}

sub every_format {
    for my $format (formats()) {
        for my $how (qw(gzip deflate)) {
            for my $way (qw(whole bytes length mod:7:2)) {
                my $case = "$format $how $way";
                my $got = exchange('POST', asked($format),
                                   'X-Case' => $case);
                my $log = log_of($got->{id});

                Test::More::ok($got->{body}
                               eq compressed($how, body_of($format)),
                               "$case: the bytes");
                Test::More::is($got->{header}{'content-encoding'}, $how,
                               "$case: the header");
                Test::More::ok($got->{whole}, "$case: the end");
                Test::More::is_deeply(
                    [@$log{qw(prompt_tokens completion_tokens usage_source
                              error)}],
                    [26, 10, 'upstream', ''], "$case: the log");
            }
        }
    }
}

sub encoded {
    my ($how, $bytes) = @_;
    my $head = stream('text/event-stream', 'Content-Encoding' => $how);

    return [$head, chunk(substr($bytes, 0, 20), substr $bytes, 20), chunk()];
}

our $stream = body_of('chat');

sub raw_deflate {
    require Compress::Raw::Zlib;
    my $z = Compress::Raw::Zlib::Deflate->new(
        -WindowBits => -15, -AppendOutput => 1);
    my $out = '';

    $z->deflate($stream, $out);
    $z->flush($out);
    return $out;
}

# Two members, cut in the middle of the text, and zeros as tar pads them.

sub members {
    my $half = int(length($stream) / 2);

    return compressed('gzip', substr $stream, 0, $half)
           . compressed('gzip', substr $stream, $half) . "\0" x 100;
}

run_tests();

__DATA__

=== streams
--- upstream eval
[sub { main::script($_[0]) }]
--- init
main::every_format();



=== the client's wish does not go upstream
--- request eval: main::ask('chat')
--- more_headers
Authorization: Bearer sk-alice
Accept-Encoding: gzip
--- upstream_request_unlike: (?i)^accept-encoding: *\S*gzip
--- response_headers
!Content-Encoding



=== one value
--- upstream eval
[main::reply(200, main::compressed('gzip', $::answer),
             'Content-Encoding' => 'gzip')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body eval: main::compressed('gzip', $::answer)
--- logged: prompt_tokens=26 completion_tokens=10 usage_source=upstream error=



=== a bomb costs no memory, and is read to its end
--- upstream eval
[main::reply(200, main::compressed('gzip', $::bomb),
             'Content-Encoding' => 'gzip')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body eval: main::compressed('gzip', $::bomb)
--- timeout: 20
--- logged: prompt_tokens=26 completion_tokens=10 usage_source=upstream error=



=== not compressed, although it says so
--- upstream eval
[main::reply(200, $::answer, 'Content-Encoding' => 'gzip')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body eval: $::answer
--- logged: usage_source=estimated error=incomplete



=== an encoding that nobody here can read: it passes, and is estimated
--- upstream eval
[main::reply(200, "\x8b\x02\x80hi\x03", 'Content-Encoding' => 'br')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body eval: "\x8b\x02\x80hi\x03"
--- response_headers
Content-Encoding: br



=== compressed and cut within the data
--- upstream eval
[main::reply(200, substr(main::compressed('gzip', $::answer), 0, 60),
             'Content-Encoding' => 'gzip')]
--- request
POST /v1/chat/completions
{"model":"m","messages":[]}
--- response_body eval: substr(main::compressed('gzip', $::answer), 0, 60)
--- logged: error=incomplete



=== gzip on: whole answers may be compressed, streams are not
--- config eval
main::conf("gzip on;\ngzip_min_length 1;\ngzip_proxied any;\n"
           . 'gzip_types application/json text/event-stream '
           . 'application/x-ndjson;')
--- upstream eval
{ '/v1/chat/completions' => [main::reply(200, $::answer)],
  '/v1/messages' => [main::deliver('whole', 'text/event-stream',
                                   main::body_of('messages'))],
  '/api/chat' => [main::deliver('whole', 'application/x-ndjson',
                                main::body_of('native'))] }
--- request eval
["POST /v1/chat/completions\n{\"model\":\"m\",\"messages\":[]}",
 main::ask('messages'), main::ask('native')]
--- more_headers
Authorization: Bearer sk-alice
Accept-Encoding: gzip
--- raw_response_headers_like eval
['Content-Encoding: gzip', 'event-stream', 'ndjson']
--- response_body_like eval
["^\x1f\x8b", '^event: message_start.*message_stop"[^\n]*\n\n$',
 '"eval_count":10\}\n$']
--- logged eval
[('prompt_tokens=26 completion_tokens=10 usage_source=upstream error=') x 3]



=== identity and none are no encodings
--- upstream eval
[main::encoded('identity', $::stream), main::encoded('none', $::stream),
 main::encoded('Identity', $::stream)]
--- request eval
[(main::ask('chat')) x 3]
--- response_body_like eval
[('"lo".*\[DONE\]\n\n$') x 3]
--- logged eval
[('prompt_tokens=26 completion_tokens=10 usage_source=upstream error=') x 3]



=== a stream in an encoding that nobody here can read passes whole
--- upstream eval
[main::encoded('br', 'x' x 400), main::encoded('zstd, gzip', 'x' x 400)]
--- request eval
[(main::ask('chat')) x 2]
--- response_body eval
['x' x 400, 'x' x 400]
--- logged eval
[('completion_tokens=100 usage_source=estimated error=') x 2]



=== so does one that is compressed otherwise than it says
--- upstream eval
[main::encoded('deflate', main::raw_deflate())]
--- request eval: main::ask('chat')
--- response_body eval: main::raw_deflate()
--- logged: completion_tokens=0 usage_source=estimated error=incomplete



=== gzip in two members, and padding
--- upstream eval
[main::encoded('gzip', main::members())]
--- request eval: main::ask('chat')
--- response_body eval: main::members()
--- logged: prompt_tokens=26 completion_tokens=10 usage_source=upstream error=
