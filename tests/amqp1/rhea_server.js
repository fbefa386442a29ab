// A server on rhea; writes its port. Its addresses are those of proton_server.py.
'use strict';

const container = require('rhea').create_container({ id: 'rhea' });

const queues = new Map();
const senders = new Set();

function queue(address) {
  if (!queues.has(address)) queues.set(address, []);
  return queues.get(address);
}

function giveOut() {
  for (const sender of senders) {
    const waiting = queue(sender.source.address);
    while (waiting.length && sender.sendable()) {
      const message = waiting.shift();
      sender.send(message).given = message;
    }
  }
}

function refuse(link) {
  link.set_source(null);
  link.set_target(null);
  link.close({ condition: 'amqp:not-found', description: 'no such address' });
}

container.on('sender_open', ({ sender }) => {
  if (sender.source.address === 'refused') return refuse(sender);
  sender.set_source(sender.source);
  senders.add(sender);
  return giveOut();
});
container.on('sender_close', ({ sender }) => senders.delete(sender));
container.on('receiver_open', ({ receiver, connection }) => {
  if (receiver.target.address === 'refused') return refuse(receiver);
  if (receiver.target.address === 'closed') {
    return connection.close({ condition: 'amqp:connection:forced', description: 'as asked for' });
  }
  return receiver.set_target(receiver.target);
});
container.on('message', ({ message, delivery, receiver }) => {
  const address = receiver.target.address || message.to;
  if (address === 'reject') delivery.reject({ condition: 'hbshim:test' });
  else if (address === 'release') delivery.release();
  else if (address === 'modify') delivery.modified({ delivery_failed: true });
  else {
    queue(address).push(message);
    delivery.accept();
    giveOut();
  }
});
container.on('sendable', giveOut);
container.on('sender_draining', ({ sender }) => {
  giveOut();
  sender.set_drained(true);
});
// Modified, too.
container.on('released', ({ delivery, sender }) => {
  queue(sender.source.address).unshift(delivery.given);
  giveOut();
});
container.on('connection_error', () => {});
container.on('disconnected', ({ connection }) => {
  for (const sender of senders) if (sender.connection === connection) senders.delete(sender);
});

const listener = container.listen({
  port: 0,
  host: '127.0.0.1',
  receiver_options: { autoaccept: false, credit_window: Number(process.argv[2]) },
  sender_options: { autosettle: true },
});
listener.on('listening', () => console.log(`${listener.address().port}\nready`));
