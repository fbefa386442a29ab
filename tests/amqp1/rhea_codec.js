// rhea decodes and encodes again: `value HEX` or `message HEX` in, HEX or an error out.
'use strict';

const readline = require('readline');
const rhea = require('rhea');

function again(what, data) {
  if (what === 'message') return rhea.message.encode(rhea.message.decode(data));
  const reader = new rhea.types.Reader(data);
  const value = reader.read();
  if (reader.remaining()) throw new Error('more than one value');
  const writer = new rhea.types.Writer();
  writer.write(value);
  return writer.toBuffer();
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [what, data] = line.trim().split(' ');
  try {
    console.log(again(what, Buffer.from(data, 'hex')).toString('hex'));
  } catch (error) {
    console.log(`error ${error}`);
  }
});
