"""What the policy of `decoding_mode: auto` gains and loses against every fixed choice, by simulation."""
