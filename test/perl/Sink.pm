# What every kind of sink has to stand: the same script for all of them.
#
# A test describes its sink and the other side of it, and calls run():
#
#	my $suite = Sink->new(name => 'amqp', ...);
#	$suite->run;
#	$suite->node->...	goes on with what only this sink has
#
# What a description says:
#
#	name		what tests are called by
#	port		where the other side listens; relays reach it through a proxy
#	create		function of the suite: SQL that makes in a database what a relay
#				needs, a server and a user mapping that lead to $suite->port, say
#	server		the server's name, if there is one
#	options		of the relay, a hash
#	headers		of every message, a hash
#	arrived		function of the suite: what has arrived since the last call, in order: hashes
#				with key, payload (text) or body (bytes), headers (a hash), id and
#				content_type.  It may not go through the proxy
#	conveys		those of them that arrive: an array of names
#	once		true if a message arrives once even when its confirmation is lost
#	ordered		true if what one worker publishes arrives in the order sent, and not
#				only per key
#	refused		a message that the other side refuses: payload (an object), key,
#				headers, and error, how the dead letter says so
#	down		how last_error says that the other side is down
#	kill, start	functions: end the other side with no warning, and start it again.
#				Without them it is made down and up
#	state		function of 'up', 'down', 'slow' or 'frozen', for a sink without
#				a network.  With one the proxy does it: down is a connection
#				refused, frozen one that takes nothing and says nothing
#	large		how much of a message the other side takes, 900 kB by default
#	cannot		what cannot happen to this sink, and why: name => text, of the
#				names of @scenes
#	secrets		what is to be in no log and no view
#
# The relay is called r, the queue events.  The other side is up when run() is
# called and when it returns; nothing of the suite's is left in the database then
# but the queue, empty, and what create made.

package Sink;

use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils;
use Proxy;
use QueueNode;
use Test::More;
use Time::HiRes qw(time usleep);
use Wait;

# The parts of the script, in their order
my @scenes = qw(down killed frozen slow lost refused ended reconnects);

# Messages in flight at most: few, so that duplicates are told from what was
# confirmed.
my $window = 10;

# Whoever asks something of a relay is to have it within two seconds, whatever the
# other side does.  The test allows for a machine that is busy: this is less
# than the 10 s a connection may take to be made, and the 60 s that a confirmation
# may, which who waits for the other side would wait for.
my $answer_within = 6;

# What a worker may grow by in kB over so many connections: a fraction of what each
# is made of.
my $reconnects = 15;
my $growth = 100;

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

my %known = map { $_ => 1 }
  qw(name port create server options headers arrived conveys once ordered refused down
  kill start state large cannot secrets);

sub new
{
	my ($class, %sink) = @_;
	my $self = bless { %sink, n => 0, arrivals => [], duplicates => 0 }, $class;

	for my $name (keys %sink)
	{
		die "a sink has no $name" if !$known{$name};
	}
	for my $name (qw(name create arrived conveys))
	{
		die "$name of the sink is missing" if !$sink{$name};
	}
	die 'a sink has a port or a state' if !$sink{port} == !$sink{state};
	for my $scene (keys %{ $sink{cannot} })
	{
		die "nothing in the suite is called $scene" if !grep { $_ eq $scene } @scenes;
	}
	$self->{cannot}->{lost}    //= 'it has no network' if !$sink{port};
	$self->{cannot}->{refused} //= 'it refuses nothing' if !$sink{refused};
	$self->{large}             //= 900_000;
	$self->{proxy} = Proxy->new(server => $sink{port}) if $sink{port};
	$self->{node} = queue_node('source', conf => 'restart_after_crash = on');
	return $self;
}

# Take the rows of a table with messages, in the order of a column, as arrived is
# to return them.
sub take_rows
{
	my ($node, $database, $table, $order) = @_;
	my @rows;

	for my $line (
		split(
			/\n/,
			$node->safe_psql(
				$database, "
WITH taken AS (DELETE FROM $table RETURNING *)
SELECT id, coalesce(encode(convert_to(key, 'UTF8'), 'hex'), '-'),
	coalesce(encode(convert_to(payload::text, 'UTF8'), 'hex'), '-'), coalesce(encode(body, 'hex'), '-'),
	coalesce(encode(convert_to(headers::text, 'UTF8'), 'hex'), '-')
FROM taken ORDER BY $order")))
	{
		my ($id, @rest) = split(/\|/, $line);
		my ($key, $payload, $body, $headers) = map { $_ eq '-' ? undef : pack('H*', $_) } @rest;

		push @rows,
		  {
			id => $id,
			key => $key,
			payload => $payload,
			body => $body,
			headers => defined($headers) ? $json->decode($headers) : undef
		  };
	}
	return @rows;
}

sub node { return $_[0]->{node}; }
sub port { return $_[0]->{proxy}->port; }

sub run
{
	my ($self) = @_;

	# The other side is down at the start of it all.
	for my $scene (@scenes)
	{
		my $start = time;
		my $why = $self->{cannot}->{$scene};
		my $method = "_$scene";

		if ($why)
		{
			note("$self->{name}, $scene: not tested, as $why");
			$self->_create('postgres') if $scene eq 'down';
			next;
		}
		$self->$method;
		note(sprintf('%s, %s: %.1f s', $self->{name}, $scene, time - $start));
	}
	$self->_end;
	return;
}

#
# What the scenes are made of
#

sub _ok { my ($self, $ok, $test) = @_; return ok($ok, "$self->{name}, $test"); }
sub _is { my ($self, $got, $expected, $test) = @_; return is($got, $expected, "$self->{name}, $test"); }

sub _query
{
	my ($self, $query, $database) = @_;
	return $self->{node}->safe_psql($database // 'postgres', $query);
}

sub _wait_until
{
	my ($self, $condition, $test, $database) = @_;
	return $self->_ok($self->{node}->poll_query_until($database // 'postgres', "SELECT $condition"), $test);
}

sub _state
{
	my ($self, $state) = @_;
	my %modes = (up => 'open', down => 'closed');

	return $self->{state}->($state) if $self->{state};
	return $self->{proxy}->mode($modes{$state} // $state);
}

# Make queue, server and relay in a database.
sub _create
{
	my ($self, $database) = @_;

	$self->_query(q{SELECT queue.create('events', max_attempts => 2, backoff => '10 ms')}, $database);
	$self->_query($self->{create}->($self), $database);
	$self->_create_relay($database);
	return;
}

sub _create_relay
{
	my ($self, $database) = @_;
	my $options = $json->encode({ %{ $self->{options} // {} }, batch => $window });
	my $server = $self->{server} ? "'$self->{server}'" : 'NULL';

	$self->_query("SELECT queue.create_relay('r', 'events', $server, \$options\$$options\$options\$)",
		$database);
	return;
}

# A database with a relay to the same other side, which is to be dropped.
sub _create_doomed
{
	my ($self) = @_;

	$self->_query('CREATE DATABASE doomed');
	$self->_query('CREATE EXTENSION queue', 'doomed');
	$self->_create('doomed');
	return;
}

# So many messages more; one in five has no key, the others have one of eight.
sub _messages
{
	my ($self, $count) = @_;
	my @messages;

	for my $i (1 .. $count)
	{
		my $n = ++$self->{n};

		push @messages, { n => $n, payload => { n => $n }, key => $n % 5 ? 'k' . $n % 8 : undef };
	}
	return @messages;
}

# So many that take a while to be published; more where the other side cannot be
# slow.
sub _many
{
	my ($self, $count) = @_;

	return $self->_messages(10 * $count) if $self->{cannot}->{slow};
	$self->_state('slow');
	return $self->_messages($count);
}

# Send them, in one transaction.
sub _send
{
	my ($self, $messages, $database) = @_;
	my @records = map {
		my %headers = (%{ $self->{headers} // {} }, %{ $_->{headers} // {} });

		{
			payload => $_->{payload},
			key => $_->{key},
			headers => %headers ? \%headers : undef,
			fill => $_->{fill} // 0
		}
	} @$messages;
	my $records = JSON::PP->new->ascii->encode(\@records);

	$self->_query(
		"SELECT count(queue.send('events',
	CASE WHEN fill > 0 THEN payload || jsonb_build_object('fill', repeat('x', fill)) ELSE payload END,
	key, headers))
FROM jsonb_to_recordset(\$messages\$$records\$messages\$)
	AS m(payload jsonb, key text, headers jsonb, fill int)",
		$database);
	return;
}

# Take what has arrived to what has arrived before.  Messages are known by the n
# of their payload; those of another database are of no interest.
sub _collect
{
	my ($self) = @_;

	for my $message ($self->{arrived}->($self))
	{
		my $payload = $message->{payload};

		if (defined($payload))
		{
			$message->{fill} = length($1) if $payload =~ s/"fill": *"(x+)"/"fill": ""/;
			$payload = $json->decode($payload);
		}
		$message->{json} = $payload;
		next if ref($payload) ne 'HASH' && !$self->{raw};
		next if ref($payload) eq 'HASH' && $payload->{doomed};
		push @{ $self->{raw} }, $message if $self->{raw};
		push @{ $self->{arrivals} }, { %$message, n => $payload->{n} }
		  if ref($payload) eq 'HASH' && defined($payload->{n});
	}
	return;
}

# How often each message has arrived: n => times
sub _times
{
	my ($self) = @_;
	my %times;

	$times{ $_->{n} }++ for @{ $self->{arrivals} };
	return \%times;
}

# Wait until nothing is left to publish.
sub _wait_through
{
	my ($self, $test) = @_;
	return $self->_wait_until(
		"NOT EXISTS (SELECT FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats WHERE queue = 'events')",
		$test);
}

# See that the messages have arrived, in order.  Duplicates are allowed of so many
# at most; a sink that has each message arrive once has none whatever happened.
sub _check
{
	my ($self, $messages, $duplicates, $scene) = @_;
	my %expected = map { $_->{n} => $_ } @$messages;
	my (%seen, %last, %ids, @disorder, @strange);
	my $extra = 0;
	my $latest = 0;

	$self->_collect;
	for my $arrival (@{ $self->{arrivals} })
	{
		my $n = $arrival->{n};
		my $message = $expected{$n} or next;
		my $key = $message->{key};

		push @strange, "size of $n" if ($arrival->{fill} // 0) != ($message->{fill} // 0);
		push @strange, "key of $n" if $self->_conveys('key') && ($arrival->{key} // '') ne ($key // '');
		if ($self->_conveys('id'))
		{
			push @strange, "no id of $n" if !defined($arrival->{id});
			push @strange, "id of $n" if ($ids{ $arrival->{id} } //= $n) != $n;
			push @strange, "another id of $n" if $seen{$n} && $seen{$n} ne $arrival->{id};
		}
		if ($seen{$n})
		{
			$extra++;
			next;
		}
		$seen{$n} = $arrival->{id} // 'yes';
		push @disorder, "$n after $last{$key}" if defined($key) && $n < ($last{$key} // 0);
		push @disorder, "$n after $latest" if $self->{ordered} && $n < $latest;
		$last{$key} = $n if defined($key);
		$latest = $n;
	}
	$self->_is(join(' ', grep { !$seen{$_} } sort { $a <=> $b } keys %expected),
		'', "$scene: nothing is lost");
	$self->_is(join(', ', @disorder), '', "$scene: all is in order");
	$self->_is(join(', ', @strange), '', "$scene: ids, keys and sizes are right");

	$duplicates = 0 if $self->{once};
	$self->{duplicates} += $duplicates;
	cmp_ok($extra, '<=', $duplicates,
		"$self->{name}, $scene: no duplicates" . ($duplicates ? ' but of what was unconfirmed' : ''));
	return;
}

sub _conveys
{
	my ($self, $what) = @_;
	return grep { $_ eq $what } @{ $self->{conveys} };
}

# The relay's worker
my $workers = q{pg_stat_activity WHERE backend_type = 'queue relay' AND datname = 'postgres'};

sub _worker
{
	my ($self) = @_;
	return $self->_query("SELECT pid FROM $workers");
}

sub _wait_for_worker
{
	my ($self, $not_this, $test) = @_;
	return $self->_wait_until("(SELECT count(*) = 1 FROM $workers AND pid <> $not_this)", $test);
}

# Wait until there are messages in flight, or none to be any more.
sub _wait_in_flight
{
	my ($self, $database) = @_;
	return $self->{node}->poll_query_until($database // 'postgres',
		'SELECT in_flight > 0 OR lag_messages = 0 FROM queue.relays');
}

sub _wait_backing_off
{
	my ($self, $test, $database) = @_;
	return $self->_wait_until(
		q{(SELECT state = 'backing off' AND last_error <> 'connecting' FROM queue.relays)},
		$test, $database);
}

# Run a statement; it and what it entails may take no longer than they should.
sub _answered
{
	my ($self, $statement, $condition, $test) = @_;
	my $start = time;
	my ($ret, $out, $err) =
	  $self->{node}->psql('postgres', "SET statement_timeout = '${answer_within}s';\n$statement;");
	my $ok = $ret == 0;
	my $took = time - $start;

	while ($ok && $condition)
	{
		my $done = $self->_query("SELECT $condition") eq 't';

		$took = time - $start;
		last if $done;
		$ok = 0 if $took > $answer_within;
		usleep(20_000);
	}
	$ok = 0 if $took > $answer_within;
	$self->_ok($ok, $test) or diag(sprintf('it took %.1f s: %s', $took, $err));
	note(sprintf('%.2f s', $took));
	return;
}

# Whatever state the other side is in, and a relay in doomed with it: what is
# asked of relays is done.
sub _administer
{
	my ($self, $state) = @_;
	my $none = "(SELECT count(*) = 0 FROM $workers)";
	my $one = "(SELECT count(*) = 1 FROM $workers)";

	$self->_answered('DROP DATABASE doomed', undef, "$state: DROP DATABASE is answered");
	$self->_answered(q{SELECT queue.pause_relay('r')}, $none, "$state: pause_relay ends the worker");
	$self->_answered(q{SELECT queue.resume_relay('r')}, $one, "$state: resume_relay starts it");

	my $pid = $self->_worker;
	$self->_answered(
		"SELECT pg_terminate_backend($pid)",
		"(SELECT count(*) = 0 FROM $workers AND pid = $pid)",
		"$state: pg_terminate_backend ends it");
	$self->_wait_for_worker($pid, "$state: it comes back");
	$self->_answered(q{SELECT queue.drop_relay('r')}, $none, "$state: drop_relay ends it");
	$self->_create_relay('postgres');
	$self->_wait_until($one, "$state: another takes the relay's place");
	return;
}

#
# Scenes
#

# The other side is down when the relay is made: messages wait, and go when it
# comes up, as they were sent.
sub _down
{
	my ($self) = @_;
	my @messages = $self->_messages(20);
	my %headers = %{ $self->{headers} // {} };
	my $headers = $json->encode({ %headers, h => "\x{e4}", n => { x => [ 1.5, undef, 'y' ] } });
	my $plain = %headers ? q{'} . $json->encode(\%headers) . q{'} : 'NULL';
	my @sent = (
		{
			key => 'k',
			payload => { a => [ 1, "\x{fc}", undef ], b => { c => 'd' } },
			headers => $json->decode($headers)
		},
		{ key => undef, body => "\x00\xff\n\\x", headers => \%headers },
		{ key => undef, payload => undef, headers => \%headers },
		{ key => "\x{e9}", payload => "\x{f1}\"\\'", headers => \%headers });

	$self->_state('down');
	$self->_create('postgres');
	$self->_create_doomed;
	$self->_query(
		qq{
SELECT queue.send('events', '{"a": [1, "\xc3\xbc", null], "b": {"c": "d"}}', 'k', '$headers');
SELECT queue.send_bytes('events', '\\x00ff0a5c78', NULL, $plain);
SELECT queue.send('events', 'null', NULL, $plain);
SELECT queue.send('events', '"\xc3\xb1\\"\\\\''"', '\xc3\xa9', $plain);});
	$self->_send(\@messages);
	$self->_send([ { payload => { doomed => 1 } } ], 'doomed');
	$self->_wait_backing_off("down: the relay in $_ backs off", $_) for 'postgres', 'doomed';
	like(
		$self->_query('SELECT last_error FROM queue.relays'),
		$self->{down} // qr/./,
		"$self->{name}, down: and says why");
	$self->_is($self->_query('SELECT lag_messages, published, failed, in_flight FROM queue.relays'),
		'24|0|0|0', 'down: nothing is published');
	$self->_administer('down');
	$self->_wait_backing_off('down: the relay backs off');
	$self->_is($self->_query(q{SELECT count(*) FROM queue.leases WHERE attempts > 1}),
		'0', 'down: no attempt is counted');

	$self->{raw} = [];
	$self->_state('up');
	$self->_wait_through('up: all is published');
	$self->_wait_until('(SELECT last_error IS NULL FROM queue.relays)', 'up: past trouble is past');
	$self->_check(\@messages, 0, 'up');

	# In the order they were sent in, which without a common key they need not
	# have come in.
	my @got = sort { _kind($a) <=> _kind($b) } grep { _kind($_) >= 0 } @{ $self->{raw} };

	delete $self->{raw};
	$self->_is(scalar(@got), scalar(@sent), 'up: messages of every kind arrive') or return;
	for my $i (0 .. $#sent)
	{
		my ($sent, $got) = ($sent[$i], $got[$i]);
		my %text = map { $_ => 1 } grep { exists $sent->{$_} } qw(payload body);

		if ($text{payload} && $self->_conveys('payload'))
		{
			$self->_is(
				$json->encode($got->{json} // undef),
				$json->encode($sent->{payload}),
				"up: payload $i");
			$self->_ok(defined($got->{payload}), "up: payload $i is JSON");
		}
		$self->_is($got->{body}, $sent->{body}, "up: body $i") if $text{body} && $self->_conveys('body');
		if ($self->_conveys('key'))
		{
			$self->_is(_characters($got->{key}), $sent->{key}, "up: key $i");
		}
		$self->_is(
			$json->encode(_characters($got->{headers} // {})),
			$json->encode($sent->{headers}),
			"up: headers $i") if $self->_conveys('headers');
		$self->_is(
			$got->{content_type},
			$text{payload} ? 'application/json' : 'application/octet-stream',
			"up: content type $i") if $self->_conveys('content_type');
	}
	return;
}

# Which of the four kinds of message of that scene it is, or -1
sub _kind
{
	my ($message) = @_;
	my $value = $message->{json};

	return 1 if !defined($message->{payload});
	return 2 if !defined($value);
	return 3 if !ref($value);
	return $value->{n} ? -1 : 0;
}

# A value with its strings decoded
sub _characters
{
	my ($value) = @_;

	return { map { _characters($_) => _characters($value->{$_}) } keys %$value } if ref($value) eq 'HASH';
	return [ map { _characters($_) } @$value ] if ref($value) eq 'ARRAY';
	utf8::decode($value) if defined($value) && !ref($value) && $value =~ /[^\x00-\x7F]/;
	return $value;
}

# Killed with messages on their way to it
sub _killed
{
	my ($self) = @_;
	my @messages = $self->_many(300);

	my $before = $self->_query('SELECT published FROM queue.relays');
	$self->_send(\@messages);
	$self->{node}->poll_query_until('postgres',
		"SELECT published > $before AND in_flight > 0 OR lag_messages = 0 FROM queue.relays");
	$self->{kill} ? $self->{kill}->() : $self->_state('down');
	$self->_state('up') if $self->{kill};
	$self->_wait_backing_off('killed: the relay backs off');
	$self->_ok($self->_query('SELECT lag_messages > 0 FROM queue.relays') eq 't', 'killed: messages wait')
	  if !$self->{cannot}->{slow};
	$self->{start} ? $self->{start}->() : $self->_state('up');
	$self->_wait_through('killed: all is published when it is back');
	$self->_check(\@messages, $window, 'killed');
	return;
}

# It takes connections, and says nothing any more.  The first messages are more
# than fits in the buffers between.
sub _frozen
{
	my ($self) = @_;
	my @messages = $self->_messages(30);

	$_->{fill} = $self->{large} for @messages[ 0 .. 7 ];
	$self->_create_doomed;

	# It is idle before it connects as well: what it has published says more.
	$self->_send([ { payload => { doomed => 1 } } ], 'doomed');
	$self->{node}->poll_query_until('doomed', q{SELECT published = 1 FROM queue.relays});
	$self->_state('frozen');
	$self->_send(\@messages);
	$self->_send([ { payload => { doomed => 1 } } ], 'doomed');
	$self->_wait_until('(SELECT in_flight > 0 FROM queue.relays)',
		"frozen: messages of $_ are on their way", $_)
	  for 'postgres', 'doomed';
	$self->_administer('frozen');
	$self->_state('up');
	$self->_wait_through('frozen: all is published when it goes on');

	# What a worker gave back comes in the order of keys.  Three have ended, and what
	# they had written may be read now.
	local $self->{ordered} = 0;
	$self->_check(\@messages, 3 * $window, 'frozen');
	return;
}

# All takes its time.
sub _slow
{
	my ($self) = @_;
	my @messages = $self->_messages(200);

	$self->_create_doomed;
	$self->_state('slow');
	$self->_send(\@messages);
	$self->_send([ map { { payload => { doomed => $_ } } } 1 .. 300 ], 'doomed');
	$self->_wait_in_flight($_) for 'doomed', 'postgres';
	$self->_administer('slow');
	$self->_wait_through('slow: all is published all the same');
	$self->_state('up');

	# Three workers have ended with messages in flight, and some confirmed and not
	# yet deleted.
	local $self->{ordered} = 0;
	$self->_check(\@messages, 3 * 2 * $window, 'slow');
	return;
}

# The connection breaks in the middle of a message; and when messages have
# arrived and the word of it has not come back, or not in time, or there is nobody
# to hear it.  These are published again, and are the only ones.
sub _lost
{
	my ($self) = @_;
	my @messages = $self->_messages(40);
	my $proxy = $self->{proxy};
	my $cuts = $proxy->cuts;

	$_->{fill} = 1000 for @messages;
	$proxy->cut(5500);
	$self->_send(\@messages);
	$self->_wait_through('cut: all is published');
	$self->_is($proxy->cuts, $cuts + 1, 'cut: the connection was lost once');
	$self->_check(\@messages, $window, 'cut');

	for my $scene ('confirmation lost', 'worker ended', 'confirmation late')
	{
		my @before = $self->_messages(4);
		my @unconfirmed = $self->_messages(4);
		my @after = $self->_messages(4);
		my $late = $scene eq 'confirmation late';

		$self->_query(q{SELECT queue.alter_relay('r', '{"confirm_timeout": 2}')}) if $late;
		$self->_send(\@before);
		$self->_wait_through("$scene: some are confirmed");
		my $pid = $self->_worker;
		$proxy->mode('mute');
		$self->_send(\@unconfirmed);
		$self->_ok(
			(   wait_for
				{
					$self->_collect;
					my $times = $self->_times;
					!grep { !$times->{ $_->{n} } } @unconfirmed;
				}),
			"$scene: some arrive");
		if ($scene eq 'worker ended')
		{
			$self->_query("SELECT pg_terminate_backend($pid)");
			$self->_wait_until("(SELECT count(*) = 0 FROM $workers AND pid = $pid)", "$scene: it is gone");
		}
		$self->_wait_until(q{(SELECT last_error = 'no confirmation within 2 s' FROM queue.relays)},
			"$scene: it is waited for so long")
		  if $late;
		$proxy->cut_and_open;
		$self->_send(\@after);
		$self->_wait_through("$scene: all is confirmed");
		$self->_query(q{SELECT queue.alter_relay('r', '{"confirm_timeout": null}')}) if $late;
		$self->_collect;

		my $times = $self->_times;
		my $expected = $self->{once} ? '1 1 1 1' : '2 2 2 2';
		$self->_is(join(' ', map { $times->{ $_->{n} } // 0 } @unconfirmed),
			$expected, "$scene: what was unconfirmed is published again");
		$self->_is(
			join(' ', map { $times->{ $_->{n} } // 0 } @before, @after),
			'1 1 1 1 1 1 1 1',
			"$scene: and nothing else");
		$self->_check([ @before, @unconfirmed, @after ], scalar(@unconfirmed), $scene);
	}
	return;
}

# One message among others is refused, with a key and without.
sub _refused
{
	my ($self) = @_;
	my @messages = $self->_messages(40);
	my %refused = %{ $self->{refused} };
	my %key_of_refused;

	for my $i (14, 27)
	{
		my $message = $messages[$i];

		$message->{payload} = { %{ $refused{payload} // {} }, n => $message->{n} };
		$message->{headers} = $refused{headers};
		$message->{key} = $i == 14 ? 'k1' : undef;
		$message->{refused} = 1;
	}
	$self->_send(\@messages);
	$self->_wait_through('refused: all is published or dead');
	$self->_is(
		$self->_query(
			q{
SELECT payload->'n', attempts, reason FROM queue.dead_letters ORDER BY (payload->'n')::int}),
		join("\n", map { "$_->{n}|2|max_attempts" } grep { $_->{refused} } @messages),
		'refused: who is at fault is dead, and nobody else');
	like($_, $refused{error}, "$self->{name}, refused: with the words of the other side")
	  for split(/\n/, $self->_query('SELECT error FROM queue.dead_letters'));
	$self->_query('DELETE FROM queue.dead_letters');

	# Who waits for the one of his key that was refused comes later.
	local $self->{ordered} = 0;
	$self->_check([ grep { !$_->{refused} } @messages ], 0, 'refused');
	my $times = $self->_times;
	$self->_is(join(' ', grep { $times->{$_} } map { $_->{n} } grep { $_->{refused} } @messages),
		'', 'refused: they have not arrived');
	return;
}

# The worker is ended, is killed and takes the cluster along, and so is the
# server, with messages on their way.
sub _ended
{
	my ($self) = @_;
	my $node = $self->{node};
	my @messages = $self->_many(500);

	my @rest = @messages;
	for my $signal ('TERM', 'KILL')
	{
		$self->_send([ splice(@rest, 0, @messages / 3) ]);
		$self->_wait_in_flight;
		my $pid = $self->_worker;
		kill($signal, $pid) or die "cannot kill worker $pid: $!";
		$self->_wait_for_worker($pid, "worker ended by SIG$signal: there is another");
	}
	$self->_send(\@rest);
	$self->_wait_in_flight;
	$self->_ok($self->_query('SELECT lag_messages > 0 FROM queue.relays') eq 't', 'ended: messages wait')
	  if !$self->{cannot}->{slow};
	$node->stop('immediate');
	$node->start;
	$self->_state('up');
	$self->_wait_through('ended: all is published');

	# What was in flight each time, or confirmed and not yet deleted
	local $self->{ordered} = 0;
	$self->_check(\@messages, 3 * 2 * $window, 'ended');
	return;
}

# Many connections, one after the other, and as many that come to nothing as they
# are made: the worker does not grow.
sub _reconnects
{
	my ($self) = @_;
	my @messages = $self->_messages($reconnects + 5);
	my ($pid, $connections, $files, $memory);
	my $proxy = $self->{proxy};
	my $expected = 0;
	my $lost = $proxy ? -$proxy->cuts : 0;

	for my $message (@messages)
	{
		$expected++;
		if ($proxy)
		{
			$proxy->cut;
			if ($message->{n} % 2)
			{
				$proxy->cut(20);
				$expected++;
			}
			$self->_send([$message]);
		}
		else
		{
			$self->_state('down');
			$self->_send([$message]);
			$lost +=
			  $self->{node}->poll_query_until('postgres', q{SELECT state = 'backing off' FROM queue.relays});
			$self->_state('up');
		}
		$self->{node}->poll_query_until('postgres',
			q{SELECT NOT EXISTS (SELECT FROM queues.events) AND last_error IS NULL FROM queue.relays})
		  or last;
		if ($message == $messages[4])
		{
			$pid = $self->_worker;
			$connections = $proxy->connections if $proxy;
			($files, $memory) = _process($pid);
		}
	}
	$lost += $proxy->cuts if $proxy;
	$self->_is($lost, $expected, 'reconnects: the connection was lost each time');
	$self->_is($self->_worker, $pid, 'reconnects: it is the same worker');
	cmp_ok($proxy->connections, '<=', $connections, "$self->{name}, reconnects: no connection is left over")
	  if $proxy;
	my ($files_now, $memory_now) = _process($pid);
	cmp_ok($files_now, '<=', $files + 2, "$self->{name}, reconnects: it has no more files open");
	cmp_ok($memory_now, '<=', $memory + $growth, "$self->{name}, reconnects: nor more memory");
	note("$files and $files_now files, $memory and $memory_now kB");
	$self->_check(\@messages, 0, 'reconnects');
	return;
}

# How many files a process has open, and how much memory of its own, in kB.
sub _process
{
	my ($pid) = @_;
	my @files = glob("/proc/$pid/fd/*");
	my ($memory) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s*(\d+) kB/m;

	return (scalar(@files), $memory);
}

# Nothing is left, nobody was blamed, and no secrets were told.
sub _end
{
	my ($self) = @_;
	my $node = $self->{node};
	my $times = $self->_times;
	my $extra = 0;

	$self->_is($self->_query('SELECT count(*) FROM queue.dead_letters'), '0', 'end: nothing is dead');
	$self->_wait_until(q{(SELECT count(*) = 0 FROM queue.leases)}, 'end: no lease is left');
	$self->_collect;
	$times = $self->_times;
	$extra += $_ - 1 for values %$times;
	cmp_ok($extra, '<=', $self->{duplicates}, "$self->{name}, end: no duplicate came late");

	my $relays = $self->_query('SELECT * FROM queue.relays');
	$self->_query(q{SELECT queue.drop_relay('r')});
	$self->_wait_until("(SELECT count(*) = 0 FROM $workers)", 'end: nor the worker');

	my $log = slurp_file($node->logfile);
	unlike($log, qr/PANIC|TRAP:|terminated by signal (?!9:)/, "$self->{name}, end: nothing crashed");
	unlike(
		$log,
		qr/terminated by signal 9.*terminated by signal 9/s,
		"$self->{name}, end: but for the worker that was killed");
	$log = server_words($node);
	for my $secret (@{ $self->{secrets} // [] })
	{
		unlike($log, qr/\Q$secret\E/, "$self->{name}, end: no secret in the log");
		unlike($relays, qr/\Q$secret\E/, "$self->{name}, end: nor in the view");
	}
	return;
}

1;
