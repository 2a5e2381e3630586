"""RAG without Ray: documents to chunks, to vectors, to a durable shard, and passages to a prompt."""
