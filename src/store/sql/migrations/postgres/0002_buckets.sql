-- An agent's buckets of key-values; what is in them has no agent.
CREATE INDEX record_agent_buckets ON record (agent, ord) WHERE kind = 'key_value' AND agent IS NOT NULL;
