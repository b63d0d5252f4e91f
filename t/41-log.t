# The log of clawd_log.conf: one line of JSON for each request, whatever the
# request was, and never what must not be in it.

use strict;
use warnings;

use JSON::PP ();
use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('info');


sub lines {
    open my $in, '<', server_root() . '/logs/clawd.log' or return;
    my @lines = <$in>;
    return @lines;
}

sub all_fields {
    my $answer = exchange('POST', asked('chat'));
    my $log = log_of($answer->{id});

    Test::More::like(delete $log->{time},
                     qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$/,
                     'the time');
    Test::More::like(delete $log->{upstream_addr}, qr/^127\.0\.0\.1:\d+$/,
                     'where it went');
    Test::More::like(delete $log->{upstream}, qr{^http://127\.0\.0\.1:\d+$},
                     'what that is called');
    Test::More::like(delete $log->{$_}, qr/^\d+\.\d{3}$/, $_)
        for qw(request_time ttft upstream_connect_time
               upstream_response_time);
    Test::More::cmp_ok(delete $log->{bytes_sent}, '>', 100, 'bytes');

    Test::More::is_deeply($log, {
        request_id => $answer->{id}, client => '127.0.0.1', user => 'alice',
        model => 'm', method => 'POST', uri => '/v1/chat/completions',
        status => 200, prompt_tokens => 3, completion_tokens => 2,
        usage_source => 'upstream', finish_reason => 'stop', error => '',
        upstream_status => 200 }, 'all others');
}


# Requests that try to break out of their line.

sub hostile {
    my @bodies = ('{"model":"a\"b\\\\c","messages":[]}',
                  "{\"model\":\"\\u0001\\n\",\"messages\":[]}",
                  "{\"model\":\"\xff\xfe\",\"messages\":[]}",
                  '{"model":"x","messages":[],"model":"y"}', "\xff\x00{");
    my @uris = ('/v1/%22%0a%7b', '/v1/chat/completions?a=%22%0a"', '/%ff%fe');
    my $n = 0;

    for my $body (@bodies) {
        exchange('POST', '/v1/chat/completions', $body,
                 'User-Agent' => "\"}\xff");
        $n++;
    }

    for my $uri (@uris) {
        exchange('GET', $uri, undef, Referer => '"},{"');
        $n++;
    }

    wait_until(sub { lines() == $n });
    Test::More::is(scalar(my @all = lines()), $n, 'one line each');

    for my $line (@all) {
        my $log = eval { JSON::PP->new->latin1->decode($line) };

        Test::More::ok(ref $log && keys %$log == 21, 'a line of JSON')
            or Test::More::diag($line);
    }
}


# Neither credentials nor what was said.

sub secrets {
    exchange('POST', '/v1/chat/completions', '{"model":"m","messages":['
             . '{"role":"user","content":"PROMPT-SECRET"}],"stream":true}');
    exchange('POST', asked('chat'), Authorization => 'Bearer TOKEN-SECRET');
    exchange('POST', asked('chat'), Authorization => '',
             'X-Api-Key' => 'KEY-SECRET');
    exchange('POST', '/v1/chat/completions?token=ARG-SECRET',
             (asked('chat'))[1]);
    wait_until(sub { lines() == 4 });

    Test::More::is(scalar(my @all = lines()), 4, 'four lines');
    Test::More::unlike("@all", qr/SECRET|sk-alice|Hel|"lo"/, 'no secret');
    Test::More::unlike(error_log() =~ s/^.*\[(?:debug|info)\].*\n//mgr,
                       qr/SECRET|sk-alice/, 'nor in the error log');
}

run_tests();

__DATA__

=== the fields
--- init
main::all_fields();



=== hostile requests
--- init
main::hostile();



=== secrets
--- init
main::secrets();



=== what does not apply is empty
--- request eval
["GET /v1/models", "POST /v1/chat/completions\n{\"model\":\"m\"}"]
--- more_headers eval
["Authorization: Bearer sk-alice", "X-Other: y"]
--- error_code eval: [200, 401]
--- logged eval
['user=alice model= prompt_tokens= completion_tokens= usage_source= ttft= '
 . 'finish_reason= error= status=200',
 'user= model= prompt_tokens= usage_source= error=no_token upstream_addr= '
 . 'upstream_status= status=401']
