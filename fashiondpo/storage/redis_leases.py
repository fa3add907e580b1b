"""Leases in Redis, kept by the server's clock: the clocks of those who hold them do not matter."""

from __future__ import annotations

from uuid import uuid4

from fashiondpo.storage.leases import Lease, checked_ttl, lost
from fashiondpo.storage.records import checked_name
from fashiondpo.storage.redis_connection import LuaScript, RedisPart, claim_of, lease_key

# A token is the time in milliseconds, or one more than the last token if that is not larger. So tokens grow even if the
# server was restarted without what it was told in its last second.
_ACQUIRE = LuaScript("""
local held = redis.call('HMGET', KEYS[2], 'until_ms', 'attempt', 'token')
local now = now_ms()
if held[1] and tonumber(held[1]) > now then
  return held[2] == ARGV[4] and held[3]
end
local token = string.format('%.0f', math.max(tonumber(held[3] or '0') + 1, now))
redis.call('HSET', KEYS[2], 'token', token, 'holder', ARGV[2], 'claim', token .. '/' .. ARGV[2],
  'until_ms', string.format('%.0f', now + tonumber(ARGV[3])), 'attempt', ARGV[4])
return token
""")
_RENEW = LuaScript("""
redis.call('HSET', KEYS[2], 'until_ms', string.format('%.0f', now_ms() + tonumber(ARGV[2])))
return 1
""")
_RELEASE = LuaScript("""
local held = redis.call('HMGET', KEYS[2], 'claim', 'until_ms')
if held[1] ~= ARGV[2] then
  return 0
end
if held[2] ~= '0' then
  if tonumber(held[2]) <= now_ms() then
    return 0
  end
  redis.call('HSET', KEYS[2], 'until_ms', '0')
end
return 1
""")
_CURRENT = LuaScript("""
local held = redis.call('HMGET', KEYS[2], 'until_ms', 'holder', 'token')
return held[1] and tonumber(held[1]) > now_ms() and {held[2], held[3]}
""")


class RedisLeases(RedisPart):
    """Leases among everybody who uses the same server and prefix: a hash `<prefix>:lease:<name>` each, kept for good."""

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take the lease, unless somebody holds it. An answer that was lost does not lose the lease."""
        key = lease_key(self._prefix, checked_name(name))
        token = self._run(_ACQUIRE, [key], [holder, _milliseconds(ttl_s), uuid4().hex])
        return None if token is None else Lease(name, holder, int(token))

    def renew(self, lease: Lease, ttl_s: float) -> None:
        """Hold it for longer."""
        holder = RedisLeases(self._client, self._prefix, fence=lease)
        holder._run(_RENEW, [lease_key(self._prefix, checked_name(lease.name))], [_milliseconds(ttl_s)])

    def release(self, lease: Lease) -> None:
        """Let others have it."""
        if not self._run(_RELEASE, [lease_key(self._prefix, checked_name(lease.name))], [claim_of(lease)]):
            raise lost(lease)

    def current(self, name: str) -> Lease | None:
        """The lease that is held now."""
        held = self._look(_CURRENT, [lease_key(self._prefix, checked_name(name))])
        return None if held is None else Lease(name, held[0], int(held[1]))


def _milliseconds(ttl_s: float) -> int:
    return max(1, round(checked_ttl(ttl_s) * 1000))
