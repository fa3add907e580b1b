import hashlib

import pytest

from fashiondpo.serving.keys import ANYBODY, Caller, KeyRing

KEY = "0123456789abcdef"


class TestKeyRing:
    @pytest.mark.parametrize("between", [",", " ", "\n", "\r\n", " , "])
    def test_is_written_as_entries_between_commas_blanks_or_lines(self, between):
        ring = KeyRing.parse(f"ann:read:{KEY}{between}ben:train+generate:{KEY}x\n")
        assert ring.caller(KEY) == Caller("ann", frozenset({"read"}))
        assert ring.caller(f"{KEY}x") == Caller("ben", frozenset({"train", "generate"}))

    def test_takes_a_key_as_its_hash(self):
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        ring = KeyRing.parse(f"ann:read:sha256-{digest}")
        assert ring.caller(KEY) is not None
        assert ring.caller(f"sha256-{digest}") is None  # the hash itself opens nothing

    def test_without_keys_is_empty(self):
        assert not KeyRing.parse(" \n ")

    def test_a_key_may_hold_colons(self):
        assert KeyRing.parse(f"ann:read:{KEY}:{KEY}").caller(f"{KEY}:{KEY}") is not None

    @pytest.mark.parametrize(
        ("entry", "problem"),
        [
            (f"ann:{KEY}", "API key 2 is not of the form"),
            (f"a/b:read:{KEY}", "API key 2 is not of the form"),
            (f"ann:write:{KEY}", "unknown scopes"),
            (f"ann::{KEY}", "unknown scopes"),
            ("ann:read:short", "fewer than 16 characters"),
            (f"ann:read:{KEY}", "the same as that of 'eve'"),
        ],
    )
    def test_says_which_entry_is_malformed_and_never_repeats_it(self, entry, problem):
        with pytest.raises(ValueError, match=problem) as caught:
            KeyRing.parse(f"eve:admin:{KEY} {entry}")
        assert KEY not in str(caught.value)


class TestCaller:
    def test_may_read_with_any_scope(self):
        assert Caller("ann", frozenset({"train"})).may("read")

    def test_may_do_everything_as_admin(self):
        assert all(ANYBODY.may(scope) for scope in ("read", "generate", "train", "admin"))

    def test_may_not_do_what_its_scopes_do_not_say(self):
        assert not Caller("ann", frozenset({"generate"})).may("train")
