"""The four scripts that Redis runs; each is one command, and all or nothing.

A host has one key with its record, which expires with its lease; a topic has one set of its
listeners. No script searches for keys.
"""

from __future__ import annotations

import hashlib


class Script:
    """A script of Redis, sent in full only where Redis does not know it.

    Attributes:
        digest: its name in Redis.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


#: KEYS: the host's record, the epoch, and a set for each member.
#: ARGV: the record, ms of the lease, ms of a set, a fresh epoch, channel, announcement, members.
#: A key of another type, which no proxy made, is replaced.
REGISTER = Script("""
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[4], 'NX')
for i = 3, #KEYS do
  local added = redis.pcall('SADD', KEYS[i], ARGV[i + 4])
  if type(added) == 'table' then
    redis.call('DEL', KEYS[i])
    redis.call('SADD', KEYS[i], ARGV[i + 4])
  end
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
""")

#: KEYS: the host's record, and a set for each member.
#: ARGV: 1 to delete the record, channel, announcement, members.
WITHDRAW = Script("""
if ARGV[1] == '1' then redis.call('DEL', KEYS[1]) end
for i = 2, #KEYS do redis.pcall('SREM', KEYS[i], ARGV[i + 2]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
""")

#: KEYS: the host's record, the epoch, and sets that are to be kept. ARGV: the record, ms of the
#: lease, ms of a set. Returns 0 where any of them is lost.
RENEW = Script("""
if not redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'XX') then return 0 end
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
for i = 3, #KEYS do
  if redis.call('PEXPIRE', KEYS[i], ARGV[3]) == 0 then return 0 end
end
return 1
""")

#: KEYS: the epoch, and sets. ARGV: what the keys of records begin with, the longest record.
#: Returns the epoch, the members of each set, and host, record and ms left of each host in them.
#: A key of another type, which no proxy made, counts as an empty one.
LOOKUP = Script("""
local seen, hosts, sets = {}, {}, {}
for i = 2, #KEYS do
  local members = redis.pcall('SMEMBERS', KEYS[i])
  if members.err then members = {} end
  sets[i - 1] = members
  for _, member in ipairs(members) do
    local host = string.match(member, '^([^|]*)|')
    if host and not seen[host] then
      seen[host] = true
      local record = redis.pcall('GET', ARGV[1] .. host)
      if type(record) == 'string' and #record <= tonumber(ARGV[2]) then
        hosts[#hosts + 1] = host
        hosts[#hosts + 1] = record
        hosts[#hosts + 1] = redis.call('PTTL', ARGV[1] .. host)
      end
    end
  end
end
local epoch = redis.pcall('GET', KEYS[1])
if type(epoch) ~= 'string' then epoch = false end
return {epoch, sets, hosts}
""")

#: KEYS: a set. ARGV: what the keys of records begin with, and members to remove unless their host
#: has a record by now. Returns the members whose host has none.
CLEAN = Script("""
for i = 2, #ARGV do
  local host = string.match(ARGV[i], '^([^|]*)|')
  if not host or redis.call('EXISTS', ARGV[1] .. host) == 0 then
    redis.pcall('SREM', KEYS[1], ARGV[i])
  end
end
local gone = {}
for _, member in ipairs(redis.pcall('SMEMBERS', KEYS[1])) do
  local host = string.match(member, '^([^|]*)|')
  if not host or redis.call('EXISTS', ARGV[1] .. host) == 0 then gone[#gone + 1] = member end
end
return gone
""")
