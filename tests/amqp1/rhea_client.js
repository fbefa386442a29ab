// A client on rhea: `rhea_client.js PORT [USER PASSWORD]`; its commands are those of proton_client.py.
'use strict';

const readline = require('readline');
const container = require('rhea').create_container({ id: 'rhea-client' });

const [port, username, password] = process.argv.slice(2);
const options = { host: '127.0.0.1', port: Number(port), reconnect: false, idle_time_out: 1000 };
if (username && username !== 'nobody') Object.assign(options, { username, password });
if (!username) Object.assign(options, { username: 'anybody' });

function say(result) {
  console.log(JSON.stringify(result));
}

const receivers = new Map();

function once(emitter, events) {
  return new Promise((resolve) => {
    for (const [name, result] of Object.entries(events)) {
      emitter.once(name, (context) => resolve(result(context)));
    }
  });
}

const commands = {
  async send(address, size) {
    const opened = { target: address, treat_modified_as_released: false };
    const sender = connection.open_sender(opened);
    const result = await once(sender, {
      sender_error: () => `detached: ${sender.error.condition}`,
      sendable: () => null,
    });
    if (result !== null) return result;
    sender.send({ message_id: 'an-id', body: Buffer.alloc(size, 'x') });
    const outcome = await once(sender, {
      accepted: () => 'ACCEPTED',
      rejected: () => 'REJECTED',
      released: () => 'RELEASED',
      modified: () => 'MODIFIED',
    });
    sender.close();
    return outcome;
  },
  async receive(address, outcome) {
    if (!receivers.has(address)) {
      const opened = { source: address, credit_window: 0, autoaccept: false };
      receivers.set(address, connection.open_receiver(opened));
    }
    const receiver = receivers.get(address);
    receiver.add_credit(1);
    const { message, delivery } = await once(receiver, { message: (context) => context });
    if (outcome === 'release') delivery.release({ delivery_failed: true });
    else delivery[outcome]();
    return [message.body.length, message.message_id, message.delivery_count || 0];
  },
  async pause(seconds) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    return connection.is_open() ? 'connected' : 'closed';
  },
  async close() {
    connection.close();
    return once(connection, { connection_close: () => 'closed' });
  },
};

const connection = container.connect(options);
container.on('disconnected', () => {});
once(container, {
  connection_open: () => 'connected',
  connection_error: ({ error }) => `refused: ${error}`,
  error: (error) => `refused: ${error}`,
}).then((result) => {
  say(result);
  if (result !== 'connected') process.exit(0);
  let latest = Promise.resolve();
  readline
    .createInterface({ input: process.stdin })
    .on('line', (line) => {
      const [name, ...values] = JSON.parse(line);
      latest = latest.then(() => commands[name](...values)).then(say);
    })
    .on('close', () => process.exit(0));
});
