# The blocks of t/50-quotas.t, with the store in Redis.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Redis;
use Clawd::Quota;

no_shuffle();
log_level('info');
Test::Base::spec_file(dirname(abs_path(__FILE__)) . '/50-quotas.t');
run_tests();
