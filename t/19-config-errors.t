# What nginx -t refuses, and that it says what to do; and what it accepts.

use strict;
use warnings;

BEGIN {
    $ENV{CLAWD_TEST_EMPTY} = '';
    $ENV{CLAWD_TEST_SPACE} = 'a b';
    delete $ENV{CLAWD_TEST_UNSET};
}

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;

no_shuffle();
run_tests();

__DATA__

=== clawd_pass without a scheme
--- config
location / { clawd_pass 127.0.0.1:11434; }
--- must_die
--- error_log
"clawd_pass" needs a URL that begins with "http://" or "https://", got "127.0.0.1:11434"



=== clawd_pass with another scheme
--- config
location / { clawd_pass ftp://127.0.0.1; }
--- must_die
--- error_log
"clawd_pass" needs a URL that begins with "http://" or "https://", got "ftp://127.0.0.1"



=== clawd_pass with a variable as its scheme
--- config
location / { clawd_pass $scheme://127.0.0.1; }
--- must_die
--- error_log
"clawd_pass" needs a URL that begins with "http://" or "https://"



=== clawd_pass with a path
--- config
location / { clawd_pass http://127.0.0.1:11434/v1; }
--- must_die
--- error_log
"clawd_pass http://127.0.0.1:11434/v1" must end with the host and port: the path of the request is what is judged and sent



=== clawd_pass with a slash
--- config
location / { clawd_pass http://127.0.0.1:11434/; }
--- must_die
--- error_log
"clawd_pass http://127.0.0.1:11434/" must end with the host and port



=== clawd_pass with a query
--- config
location / { clawd_pass http://127.0.0.1:11434?a=b; }
--- must_die
--- error_log
must end with the host and port



=== clawd_pass with a variable behind the host
--- config
location / { clawd_pass http://127.0.0.1:11434$request_uri; }
--- must_die
--- error_log
"clawd_pass http://127.0.0.1:11434$request_uri" may have a variable as its whole host only



=== clawd_pass with a variable host and a path
--- config
location / { clawd_pass http://$arg_host/x; }
--- must_die
--- error_log
must end with the host and port



=== clawd_pass with two variables
--- config
location / { clawd_pass http://$host$uri; }
--- must_die
--- error_log
may have a variable as its whole host only



=== clawd_pass to a socket with a path behind it
--- config
location / { clawd_pass http://unix:/tmp/x.sock:/v1; }
--- must_die
--- error_log
"clawd_pass http://unix:/tmp/x.sock:/v1" must end with the



=== clawd_pass without an argument
--- config
location / { clawd_pass; }
--- must_die
--- error_log
invalid number of arguments in "clawd_pass" directive



=== clawd_pass twice
--- config
location / {
    clawd_pass http://127.0.0.1:1;
    clawd_pass http://127.0.0.1:2;
}
--- must_die
--- error_log
"clawd_pass" directive is duplicate



=== clawd_pass behind proxy_pass
--- config
location / {
    proxy_pass http://127.0.0.1:1;
    clawd_pass http://127.0.0.1:2;
}
--- must_die
--- error_log
"clawd_pass" directive is duplicate



=== proxy_pass behind clawd_pass
--- config
location / {
    clawd_pass http://127.0.0.1:2;
    proxy_pass http://127.0.0.1:1;
}
--- must_die
--- error_log
"proxy_pass" directive is duplicate



=== clawd_pass in a server block
--- config
clawd_pass http://127.0.0.1:1;
--- must_die
--- error_log
"clawd_pass" directive is not allowed here



=== clawd_pass where the gate is off
--- config
location / {
    clawd off;
    clawd_pass http://127.0.0.1:1;
}
--- must_die
--- error_log
"clawd_pass" directive can't be used in a location with "clawd off"



=== clawd off behind clawd_pass
--- config
location / {
    clawd_pass http://127.0.0.1:1;
    clawd off;
}
--- must_die
--- error_log
"clawd" directive is duplicate



=== clawd_pass without a zone
--- http_config
clawd_token sk-alice user=alice;
--- config
location / { clawd_pass http://127.0.0.1:1; }
--- must_die
--- error_log
"clawd" and "clawd_pass" need a shared zone, add "clawd_zone clawd:16m;" to the http block



=== clawd without a zone
--- http_config
clawd_token sk-alice user=alice;
--- config
location / { clawd on; proxy_pass http://127.0.0.1:1; }
--- must_die
--- error_log
"clawd" and "clawd_pass" need a shared zone



=== clawd without a token
--- http_config
clawd_zone clawd:1m;
--- config
location / { clawd_pass http://127.0.0.1:1; }
--- must_die
--- error_log
"clawd_auth" is on and there is no token to accept, add "clawd_token" or "clawd_redis" to the http block or say "clawd_auth off;"



=== clawd with a token_arg and without a token
--- http_config
clawd_zone clawd:1m;
--- config
location / { clawd_auth token_arg; clawd_pass http://127.0.0.1:1; }
--- must_die
--- error_log
there is no token to accept



=== clawd with another word
--- config
location / { clawd maybe; }
--- must_die
--- error_log
invalid value "maybe" in "clawd" directive, it must be "on" or "off"



=== clawd_auth with another word
--- config
location / { clawd_auth sometimes; }
--- must_die
--- error_log
invalid value "sometimes"



=== clawd_auth twice
--- config
location / { clawd_auth on; clawd_auth off; }
--- must_die
--- error_log
"clawd_auth" directive is duplicate



=== clawd_metrics without a zone
--- http_config
--- config
location = /metrics { clawd_metrics; }
--- must_die
--- error_log
"clawd_metrics" needs a shared zone, add "clawd_zone clawd:16m;" to the http block



=== clawd_metrics with an argument
--- config
location = /metrics { clawd_metrics all; }
--- must_die
--- error_log
invalid number of arguments in "clawd_metrics" directive



=== clawd_metrics twice
--- config
location = /metrics { clawd_metrics; clawd_metrics; }
--- must_die
--- error_log
"clawd_metrics" directive is duplicate



=== clawd_metrics and clawd_pass
--- config
location = /metrics { clawd_pass http://127.0.0.1:1; clawd_metrics; }
--- must_die
--- error_log
"clawd_metrics" directive is duplicate



=== clawd_zone twice
--- http_config
clawd_zone clawd:1m;
clawd_zone other:1m;
--- config
--- must_die
--- error_log
"clawd_zone" directive is duplicate



=== clawd_zone without a size
--- http_config
clawd_zone clawd;
--- config
--- must_die
--- error_log
invalid zone "clawd": name:size is expected



=== clawd_zone of no size
--- http_config
clawd_zone clawd:big;
--- config
--- must_die
--- error_log
invalid zone size "clawd:big"



=== clawd_zone that is too small
--- http_config
clawd_zone clawd:8k;
--- config
--- must_die
--- error_log
zone "clawd:8k" is too small: at least 256k is needed



=== clawd_zone without a name
--- http_config
clawd_zone :1m;
--- config
--- must_die
--- error_log
invalid zone ":1m": name:size is expected



=== clawd_token without a user
--- http_config
clawd_zone clawd:1m;
clawd_token sk-alice role=admin;
--- config
--- must_die
--- error_log
"clawd_token" needs "user=NAME"



=== clawd_token alone
--- http_config
clawd_token sk-alice;
--- config
--- must_die
--- error_log
invalid number of arguments in "clawd_token" directive



=== clawd_token with a bad user
--- http_config
clawd_token sk-alice "user=a b";
--- config
--- must_die
--- error_log
"clawd_token" needs a user name of 1 to 64 of A-Z a-z 0-9 . _ @ + -, got "user=a b"



=== clawd_token with an empty user
--- http_config
clawd_token sk-alice user=;
--- config
--- must_die
--- error_log
"clawd_token" needs a user name of 1 to 64



=== clawd_token with a long user
--- http_config eval
"clawd_token sk-alice user=" . "u" x 65 . ";"
--- config
--- must_die
--- error_log
"clawd_token" needs a user name of 1 to 64



=== clawd_token with a bad role
--- http_config
clawd_token sk-alice user=alice role=root;
--- config
--- must_die
--- error_log
"clawd_token" takes "user=NAME", "plan=NAME" and "role=user" or "role=admin" once each, got "role=root"



=== clawd_token with two users
--- http_config
clawd_token sk-alice user=alice user=bob;
--- config
--- must_die
--- error_log
once each, got "user=bob"



=== clawd_token with two roles
--- http_config
clawd_token sk-alice role=user role=admin;
--- config
--- must_die
--- error_log
once each, got "role=admin"



=== clawd_token with something else
--- http_config
clawd_token sk-alice user=alice expires=never;
--- config
--- must_die
--- error_log
once each, got "expires=never"



=== clawd_token with a space
--- http_config
clawd_token "sk alice" user=alice;
--- config
--- must_die
--- error_log
"clawd_token" of user "alice" is not a token: use 1 to 4096 visible ASCII characters without spaces and commas
--- no_error_log
sk alice



=== clawd_token with nothing
--- http_config
clawd_token "" user=alice;
--- config
--- must_die
--- error_log
"clawd_token" of user "alice" is not a token



=== clawd_token with a comma
--- http_config
clawd_token sk-a,sk-b user=alice;
--- config
--- must_die
--- error_log
"clawd_token" of user "alice" is not a token



=== clawd_token that is too long
--- http_config eval
"clawd_token file:$ENV{TEST_NGINX_SERVER_ROOT}/html/long user=alice;"
--- user_files eval
[["long" => "b" x 4097]]
--- config
--- must_die
--- error_log
"clawd_token" of user "alice" is not a token



=== clawd_token of an unset variable
--- http_config
clawd_token env:CLAWD_TEST_UNSET user=alice;
--- config
--- must_die
--- error_log
"clawd_token env:CLAWD_TEST_UNSET": the environment variable is unset or empty, set it before NGINX starts, or use "file:PATH" under a service manager



=== clawd_token of an empty variable
--- http_config
clawd_token env:CLAWD_TEST_EMPTY user=alice;
--- config
--- must_die
--- error_log
"clawd_token env:CLAWD_TEST_EMPTY": the environment variable is unset or empty



=== clawd_token of a variable with a space
--- http_config
clawd_token env:CLAWD_TEST_SPACE user=alice;
--- config
--- must_die
--- error_log
"clawd_token" of user "alice" is not a token



=== clawd_token of no variable
--- http_config
clawd_token env: user=alice;
--- config
--- must_die
--- error_log
the environment variable is unset or empty



=== clawd_token of a missing file
--- http_config
clawd_token file:/nonexistent/token user=alice;
--- config
--- must_die
--- error_log
"clawd_token file:/nonexistent/token": the file can't be opened



=== clawd_token of an empty file
--- http_config eval
"clawd_token file:$ENV{TEST_NGINX_SERVER_ROOT}/html/empty user=alice;"
--- user_files eval
[["empty" => ""]]
--- config
--- must_die
--- error_log
the file is empty or can't be read, write the token into its first line



=== clawd_token of a file with line ends alone
--- http_config eval
"clawd_token file:$ENV{TEST_NGINX_SERVER_ROOT}/html/empty user=alice;"
--- user_files eval
[["empty" => "\r\n\n"]]
--- config
--- must_die
--- error_log
the file is empty or can't be read



=== clawd_token of a directory
--- http_config
clawd_token file:/ user=alice;
--- config
--- must_die
--- error_log
the file is empty or can't be read



=== clawd_token of a file with two lines
--- http_config eval
"clawd_token file:$ENV{TEST_NGINX_SERVER_ROOT}/html/two user=alice;"
--- user_files eval
[["two" => "sk-a\nsk-b\n"]]
--- config
--- must_die
--- error_log
"clawd_token" of user "alice" is not a token
--- no_error_log
sk-a



=== the same token twice
--- http_config
clawd_token sk-same user=alice;
clawd_token sk-other user=carol;
clawd_token sk-same user=bob role=admin;
--- config
--- must_die
--- error_log eval
[qr/"clawd_token" of user "(?:alice|bob)" and of user "(?:alice|bob)" are the same token, give each its own/]
--- no_error_log
sk-same



=== clawd_token in a server block
--- config
clawd_token sk-alice user=alice;
--- must_die
--- error_log
"clawd_token" directive is not allowed here



=== clawd_max_tokens of 0
--- config
clawd_max_tokens 0;
--- must_die
--- error_log
"clawd_max_tokens" needs a number from 1 to 1000000000 or "off", got "0"



=== clawd_max_tokens below 0
--- config
clawd_max_tokens -1;
--- must_die
--- error_log
"clawd_max_tokens" needs a number from 1 to 1000000000 or "off", got "-1"



=== clawd_max_tokens of a word
--- config
clawd_max_tokens many;
--- must_die
--- error_log
"clawd_max_tokens" needs a number from 1 to 1000000000 or "off", got "many"



=== clawd_max_tokens of a fraction
--- config
clawd_max_tokens 1.5;
--- must_die
--- error_log
"clawd_max_tokens" needs a number from 1 to 1000000000 or "off", got "1.5"



=== clawd_max_tokens of more than can be counted
--- config
clawd_max_tokens 99999999999999999999;
--- must_die
--- error_log
"clawd_max_tokens" needs a number



=== clawd_max_tokens twice
--- config
clawd_max_tokens 5;
clawd_max_tokens off;
--- must_die
--- error_log
"clawd_max_tokens" directive is duplicate



=== clawd_cors of a word
--- config
clawd_cors everybody;
--- must_die
--- error_log
"clawd_cors" takes "off", "*" alone, or origins as "https://app.example", got "everybody"



=== clawd_cors of a name without a scheme
--- config
clawd_cors https://app.example app.example;
--- must_die
--- error_log
got "app.example"



=== clawd_cors of an origin with a path
--- config
clawd_cors https://app.example/;
--- must_die
--- error_log
got "https://app.example/"



=== clawd_cors of a pattern
--- config
clawd_cors https://*.example;
--- must_die
--- error_log
got "https://*.example"



=== clawd_cors of a pattern that begins with a star
--- config
clawd_cors *.example;
--- must_die
--- error_log
got "*.example"



=== clawd_cors of everybody and somebody
--- config
clawd_cors * https://app.example;
--- must_die
--- error_log
got "*"



=== clawd_cors of nobody and somebody
--- config
clawd_cors off https://app.example;
--- must_die
--- error_log
got "off"



=== clawd_cors of nothing
--- config
clawd_cors "";
--- must_die
--- error_log
"clawd_cors" takes "off"



=== clawd_cors twice
--- config
clawd_cors *;
clawd_cors off;
--- must_die
--- error_log
"clawd_cors" directive is duplicate



=== accepted: everything at each level
--- http_config eval
main::gate_http('clawd off;', 'clawd_auth on;', 'clawd_max_tokens 100;',
                'clawd_cors https://app.example;')
--- config
clawd_auth token_arg;
clawd_max_tokens off;
clawd_cors off;
location / {
    clawd_auth on;
    clawd_max_tokens 5;
    clawd_cors https://a.example http://b.example:8080;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;

    if ($arg_never) { clawd_pass http://127.0.0.1:1; }
    limit_except GET POST { clawd_pass http://127.0.0.1:1; }
}
location /a { clawd on; proxy_pass http://127.0.0.1:1; }
location /b { clawd_pass https://127.0.0.1:1; }
location /c { clawd_pass http://unix:/tmp/none.sock; }
location /d { clawd_pass http://[::1]:11434; }
location /e { set $up 127.0.0.1:1; clawd_pass http://$up; }
location /f { clawd_pass HTTP://127.0.0.1:1; }
location ~ /g { clawd_pass http://127.0.0.1:1; }
location @h { clawd_pass http://127.0.0.1:1; }
location = /metrics { clawd_metrics; }
--- request
GET /v1/models
--- error_code: 200



=== accepted: a zone and tokens that nobody uses
--- config
location / { return 204; }
--- request
GET /
--- error_code: 204



=== accepted: no token where nobody is asked
--- http_config
clawd_zone clawd:1m;
--- config
location / {
    clawd_auth off;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- more_headers
X-Other: y
--- request
GET /v1/models
--- error_code: 200



=== accepted: nothing of it at all
--- http_config
--- config
location / { return 200 "$clawd_user-$clawd_model-$clawd_request_id"; }
--- request
GET /
--- response_body chomp
--
