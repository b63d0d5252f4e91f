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



=== clawd_quota alone
--- http_config
clawd_zone clawd:1m;
clawd_quota default;
--- config
--- must_die
--- error_log
invalid number of arguments in "clawd_quota" directive



=== clawd_quota with a bad name
--- http_config
clawd_zone clawd:1m;
clawd_quota "a b" rpm=1;
--- config
--- must_die
--- error_log
"clawd_quota" needs the name of a plan, 1 to 64 of A-Z a-z 0-9 . _ @ + -, got "a b"



=== clawd_quota without a name
--- http_config
clawd_zone clawd:1m;
clawd_quota rpm=1 tpm=2;
--- config
--- must_die
--- error_log
"clawd_quota" needs the name of a plan, 1 to 64 of A-Z a-z 0-9 . _ @ + -, got "rpm=1"



=== clawd_quota twice
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=1;
clawd_quota gold rpm=1;
clawd_quota default tpm=1;
--- config
--- must_die
--- error_log
"clawd_quota default" is duplicate, write all of a plan in one directive



=== clawd_quota with a word
--- http_config
clawd_zone clawd:1m;
clawd_quota default unlimited;
--- config
--- must_die
--- error_log
"clawd_quota default" takes "name=value", as "tpm=50000", got "unlimited"



=== clawd_quota with an unknown limit
--- http_config
clawd_zone clawd:1m;
clawd_quota default rps=5;
--- config
--- must_die
--- error_log
"clawd_quota default": "rps=5": unknown field



=== clawd_quota with a limit of "-1"
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 tpm=-1;
--- config
--- must_die
--- error_log
"clawd_quota default": "tpm=-1": a limit must be digits, 1000000000000 at most, or "unlimited"



=== clawd_quota with a limit of "1.5"
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 tpm=1.5;
--- config
--- must_die
--- error_log
"clawd_quota default": "tpm=1.5": a limit must be digits, 1000000000000 at most, or "unlimited"



=== clawd_quota with a limit of "many"
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 tpm=many;
--- config
--- must_die
--- error_log
"clawd_quota default": "tpm=many": a limit must be digits, 1000000000000 at most, or "unlimited"



=== clawd_quota with a limit of ""
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 tpm=;
--- config
--- must_die
--- error_log
"clawd_quota default": "tpm=": a limit must be digits, 1000000000000 at most, or "unlimited"



=== clawd_quota with a limit of "1000000000001"
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 tpm=1000000000001;
--- config
--- must_die
--- error_log
"clawd_quota default": "tpm=1000000000001": a limit must be digits, 1000000000000 at most, or "unlimited"



=== clawd_quota with a limit of "+5"
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 tpm=+5;
--- config
--- must_die
--- error_log
"clawd_quota default": "tpm=+5": a limit must be digits, 1000000000000 at most, or "unlimited"



=== clawd_quota with a limit of "1e3"
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 tpm=1e3;
--- config
--- must_die
--- error_log
"clawd_quota default": "tpm=1e3": a limit must be digits, 1000000000000 at most, or "unlimited"



=== clawd_quota with a limit twice
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=5 rpm=6;
--- config
--- must_die
--- error_log
"clawd_quota default": "rpm=6": the field is there twice



=== clawd_quota with what belongs to a key
--- http_config
clawd_zone clawd:1m;
clawd_quota default expires=5;
--- config
--- must_die
--- error_log
"clawd_quota default": "expires=5": a record of this kind has no such field



=== clawd_quota with what belongs to a user
--- http_config
clawd_zone clawd:1m;
clawd_quota default role=admin;
--- config
--- must_die
--- error_log
"clawd_quota default": "role=admin": a record of this kind has no such field



=== clawd_quota with a zone that has no form
--- http_config
clawd_zone clawd:1m;
clawd_quota default tz=+2:00;
--- config
--- must_die
--- error_log
"clawd_quota default": "tz=+2:00": a zone must be UTC, +HH:MM, -HH:MM, or a name like Europe/Berlin



=== clawd_quota with a zone that leads out of the database
--- http_config
clawd_zone clawd:1m;
clawd_quota default tz=../../etc/passwd;
--- config
--- must_die
--- error_log
"clawd_quota default": "tz=../../etc/passwd": a zone must be



=== clawd_quota with a zone that does not exist
--- http_config
clawd_zone clawd:1m;
clawd_quota default tz=Mars/Olympus;
--- config
--- must_die
--- error_log
"clawd_quota default": "tz=Mars/Olympus" is no time zone of this system, install the package tzdata or write it as "+02:00"



=== clawd_quota with a priority out of range
--- http_config
clawd_zone clawd:1m;
clawd_quota default priority=101;
--- config
--- must_die
--- error_log
"clawd_quota default": "priority=101": a priority must be 0 to 100



=== clawd_quota without a zone
--- http_config
clawd_quota default rpm=1;
--- config
--- must_die
--- error_log
"clawd_redis", "clawd_quota" and "clawd_state" need a shared zone, add "clawd_zone clawd:16m;" to the http block



=== clawd_quota in a server block
--- config
clawd_quota default rpm=1;
--- must_die
--- error_log
"clawd_quota" directive is not allowed here



=== clawd_token with a plan that nobody defines
--- http_config
clawd_zone clawd:1m;
clawd_quota default rpm=1;
clawd_token sk-a user=a plan=gold;
--- config
--- must_die
--- error_log
"clawd_token" of user "a" has "plan=gold", which no "clawd_quota" defines



=== clawd_token with a plan and no quota at all
--- http_config
clawd_zone clawd:1m;
clawd_token sk-a user=a plan=gold;
--- config
--- must_die
--- error_log
"clawd_token" of user "a" has "plan=gold", which no "clawd_quota" defines



=== clawd_token with two plans
--- http_config
clawd_zone clawd:1m;
clawd_token sk-a user=a plan=x plan=y;
--- config
--- must_die
--- error_log
once each, got "plan=y"



=== clawd_token with a plan of no name
--- http_config
clawd_zone clawd:1m;
clawd_token sk-a user=a plan=;
--- config
--- must_die
--- error_log
once each, got "plan="



=== clawd_token with a long plan
--- http_config
clawd_zone clawd:1m;
clawd_token sk-a user=a plan=ppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp;
--- config
--- must_die
--- error_log
once each, got "plan=ppp



=== clawd_state twice
--- http_config
clawd_zone clawd:1m;
clawd_state /tmp/a;
clawd_state /tmp/b;
--- config
--- must_die
--- error_log
"clawd_state" directive is duplicate



=== clawd_state of nothing
--- http_config
clawd_zone clawd:1m;
clawd_state "";
--- config
--- must_die
--- error_log
"clawd_state" directive needs the path of a file



=== clawd_state in a folder that does not exist
--- http_config
clawd_zone clawd:1m;
clawd_state /nonexistent/dir/state;
--- config
--- must_die
--- error_log
"clawd_state /nonexistent/dir/state": there is no folder "/nonexistent/dir", create it for the user of the workers



=== clawd_state in a file
--- http_config
clawd_zone clawd:1m;
clawd_state /etc/passwd/state;
--- config
--- must_die
--- error_log
"clawd_state /etc/passwd/state": there is no folder "/etc/passwd"



=== clawd_state with a path that is too long
--- http_config eval
"clawd_zone clawd:1m; clawd_state " . "d" x 4080 . ";"
--- config
--- must_die
--- error_log
"clawd_state" has a path that is too long: /



=== clawd_state without a zone
--- http_config
clawd_state /tmp/state;
--- config
--- must_die
--- error_log
"clawd_redis", "clawd_quota" and "clawd_state" need a shared zone



=== clawd_redis alone
--- http_config
clawd_zone clawd:1m;
clawd_redis;
--- config
--- must_die
--- error_log
invalid number of arguments in "clawd_redis" directive



=== clawd_redis twice
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:1;
clawd_redis redis://127.0.0.1:2;
--- config
--- must_die
--- error_log
"clawd_redis" directive is duplicate



=== clawd_redis without a scheme
--- http_config
clawd_zone clawd:1m;
clawd_redis 127.0.0.1:6379;
--- config
--- must_die
--- error_log
"clawd_redis" needs "redis://HOST:PORT", "rediss://HOST:PORT" or "unix:/PATH" as its first argument



=== clawd_redis with another scheme
--- http_config
clawd_zone clawd:1m;
clawd_redis http://127.0.0.1:6379;
--- config
--- must_die
--- error_log
"clawd_redis" needs "redis://HOST:PORT"



=== clawd_redis without a host
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://;
--- config
--- must_die
--- error_log
"clawd_redis" has no host in its URL



=== clawd_redis with a user and no host
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://user:secret@;
--- config
--- must_die
--- error_log
"clawd_redis" has no host in its URL
--- no_error_log
secret



=== clawd_redis with a host that does not exist
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://no-such-host.invalid:6379;
--- config
--- must_die
--- error_log
host not found in "no-such-host.invalid:6379" of "clawd_redis"



=== clawd_redis with a port out of range
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:65536;
--- config
--- must_die
--- error_log
invalid port in "127.0.0.1:65536" of "clawd_redis"



=== clawd_redis with a database that is none
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379/cache;
--- config
--- must_die
--- error_log
"clawd_redis" needs the number of a database, got "cache"



=== clawd_redis with a database below 0
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 db=-1;
--- config
--- must_die
--- error_log
"clawd_redis" needs the number of a database, got "-1"



=== clawd_redis with another word for on_down
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 on_down=allow;
--- config
--- must_die
--- error_log
"clawd_redis on_down=" takes "deny", "local" or "open", got "allow"



=== clawd_redis with a time of 0
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 timeout=0;
--- config
--- must_die
--- error_log
"clawd_redis timeout=" takes 1ms to 10s, got "0"



=== clawd_redis with a time of 11s
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 timeout=11s;
--- config
--- must_die
--- error_log
"clawd_redis timeout=" takes 1ms to 10s, got "11s"



=== clawd_redis with a time of soon
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 timeout=soon;
--- config
--- must_die
--- error_log
"clawd_redis timeout=" takes 1ms to 10s, got "soon"



=== clawd_redis with a time of -1
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 timeout=-1;
--- config
--- must_die
--- error_log
"clawd_redis timeout=" takes 1ms to 10s, got "-1"



=== clawd_redis with something else
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 pasword=secret;
--- config
--- must_die
--- error_log
"clawd_redis" does not know "pasword": it takes user=, password=, db=, timeout=, on_down=, ca=, verify= and name=
--- no_error_log
secret



=== clawd_redis with a parameter twice
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 db=1 db=2;
--- config
--- must_die
--- error_log
"clawd_redis" needs a value for "db=", once



=== clawd_redis with a parameter of nothing
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 password=;
--- config
--- must_die
--- error_log
"clawd_redis" needs a value for "password=", once



=== clawd_redis with a user and no password
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 user=clawd;
--- config
--- must_die
--- error_log
"clawd_redis" names the user "clawd" without a password: add "password=env:NAME" or "password=file:PATH"



=== clawd_redis with a password of an unset variable
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 password=env:CLAWD_TEST_UNSET;
--- config
--- must_die
--- error_log
"clawd_redis password=env:CLAWD_TEST_UNSET": the environment variable is unset or empty: set it where NGINX starts, or use "password=file:PATH"



=== clawd_redis with a password of an empty variable
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 password=env:CLAWD_TEST_EMPTY;
--- config
--- must_die
--- error_log
"clawd_redis password=env:CLAWD_TEST_EMPTY": the environment variable is unset or empty



=== clawd_redis with a password of a missing file
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 password=file:/nonexistent/pw;
--- config
--- must_die
--- error_log
"clawd_redis password=file:/nonexistent/pw": the file can't be opened



=== clawd_redis with a password of no file
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 password=file:;
--- config
--- must_die
--- error_log
"clawd_redis password=file:PATH" needs a path



=== clawd_redis with a password of an empty file
--- http_config eval
"clawd_zone clawd:1m; clawd_redis redis://127.0.0.1:6379 "
. "password=file:$ENV{TEST_NGINX_SERVER_ROOT}/html/empty;"
--- user_files eval
[["empty" => "\nsecret\n"]]
--- config
--- must_die
--- error_log
the file's first line is empty or too long: it needs the password and nothing else
--- no_error_log
secret



=== clawd_redis with ca and no TLS
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 ca=/etc/ssl/cert.pem;
--- config
--- must_die
--- error_log
"clawd_redis" takes ca=, verify= and name= with "rediss://" only, since nothing else is TLS



=== clawd_redis with verify and no TLS
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 verify=off;
--- config
--- must_die
--- error_log
"clawd_redis" takes ca=, verify= and name= with "rediss://" only, since nothing else is TLS



=== clawd_redis with name and no TLS
--- http_config
clawd_zone clawd:1m;
clawd_redis redis://127.0.0.1:6379 name=redis;
--- config
--- must_die
--- error_log
"clawd_redis" takes ca=, verify= and name= with "rediss://" only, since nothing else is TLS



=== clawd_redis with another word for verify
--- http_config
clawd_zone clawd:1m;
clawd_redis rediss://127.0.0.1:6379 verify=maybe;
--- config
--- must_die
--- error_log
"clawd_redis verify=" takes "on" or "off", got "maybe"



=== clawd_redis without a zone
--- http_config
clawd_redis redis://127.0.0.1:6379;
--- config
--- must_die
--- error_log
"clawd_redis", "clawd_quota" and "clawd_state" need a shared zone



=== clawd_redis in a server block
--- config
clawd_redis redis://127.0.0.1:6379;
--- must_die
--- error_log
"clawd_redis" directive is not allowed here



=== clawd_dry_run with another word
--- config
location / { clawd_dry_run maybe; }
--- must_die
--- error_log
invalid value "maybe" in "clawd_dry_run" directive, it must be "on" or "off"



=== accepted: quotas of all kinds
--- http_config eval
main::gate_http('clawd_quota default rpm=60 tpm=100000 tokens_per_day=1000000 '
                . 'tokens_per_month=unlimited concurrency=0 tz=-03:30 '
                . '"models=qwen3:* llama3*" priority=100 "name=All of us";',
                'clawd_quota gold tpm=1000000000000 tz=UTC models=a,b;',
                'clawd_token sk-gold plan=gold user=gold role=user;',
                'clawd_token sk-plan user=plan plan=default;',
                'clawd_dry_run on;',
                "clawd_state $ENV{TEST_NGINX_SERVER_ROOT}/html/state;")
--- config
clawd_dry_run off;
location / {
    clawd_dry_run on;
    clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT;
}
--- request
GET /v1/models
--- error_code: 200



=== accepted: keys in Redis and no token
--- http_config eval
'clawd_zone clawd:1m; clawd_redis redis://user:p%40ss@127.0.0.1:'
. '$TEST_NGINX_RAND_PORT_1/3 timeout=50ms on_down=open;'
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- request
GET /v1/models
--- error_code: 503
--- error_log
does not serve (connect)
--- no_error_log
p@ss
p%40ss



=== accepted: Redis behind a socket
--- http_config eval
main::gate_http('clawd_redis unix:/nonexistent/redis.sock db=2 on_down=open;')
--- config
location / { clawd_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- request
GET /v1/models
--- error_code: 200
--- error_log
Redis "unix:/nonexistent/redis.sock" does not serve (connect)



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
