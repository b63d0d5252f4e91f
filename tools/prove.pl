#!/usr/bin/perl
#
# Runs Test::Nginx files side by side and ends with a line of counts:
#
#     tools/prove.pl NAME JOBS FILE-OR-FOLDER...
#
# The genuine Test::Nginx::Socket is used where it is installed and
# TEST_NGINX_GENUINE is set; else the runner in t/lib.

use strict;
use warnings;

use FindBin;
use TAP::Harness;

my ($name, $jobs, @paths) = @ARGV;
my @files = map { -d $_ ? sort glob("$_/*.t") : $_ } @paths;

die "usage: prove.pl NAME JOBS FILE-OR-FOLDER...\n" if !@files;

my $harness = TAP::Harness->new({
    jobs => $jobs, timer => 1, color => -t STDOUT,
    $ENV{TEST_NGINX_GENUINE} ? () : (lib => ["$FindBin::Bin/../t/lib"]),
});

$ENV{TEST_NGINX_RANDOMIZE} = 1 if $ENV{TEST_NGINX_GENUINE};

my $result = $harness->runtests(@files);

# A file that died, or planned other than it ran, is one more failure.

my %bad = map { $_ => 1 } $result->parse_errors, $result->exit, $result->wait;
my $passed = scalar $result->passed;
my $failed = scalar $result->failed;

$failed += grep { !($result->parsers($_))[0]->failed } keys %bad;

print "$name: $passed passed, $failed failed\n";
exit($failed || !$passed ? 1 : 0);
