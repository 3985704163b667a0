"""Declare the queue "announcements" of RabbitMQ, or print what is in it.

Usage: rabbitmq.py PORT declare|read [AT_MOST]

What is read is a body a line.  It is not acknowledged, so that it stays there.
"""

import itertools
import sys

import pika

port, what, *at_most = sys.argv[1:]
with open('broker/password') as file:
    login = pika.PlainCredentials('shop', file.read().strip())
channel = pika.BlockingConnection(
    pika.ConnectionParameters('127.0.0.1', int(port), credentials=login)).channel()
ready = channel.queue_declare('announcements', durable=True).method.message_count
if what == 'read':
    count = min([ready, *map(int, at_most)])
    for _, _, body in itertools.islice(channel.consume('announcements'), count):
        sys.stdout.buffer.write(body + b'\n')
channel.connection.close()
