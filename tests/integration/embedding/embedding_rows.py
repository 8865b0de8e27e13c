"""What the tests of embeddings make in a database: Archon's tables and its search functions."""

TABLES = """
CREATE TABLE archon_crawled_pages (
  id bigserial PRIMARY KEY, url varchar NOT NULL, chunk_number integer NOT NULL, content text NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{{}}', source_id text NOT NULL DEFAULT 'src', embedding {schema}.vector({dimensions}),
  created_at timestamptz NOT NULL DEFAULT now(), UNIQUE (url, chunk_number));
CREATE TABLE archon_code_examples (
  id bigserial PRIMARY KEY, url varchar NOT NULL, chunk_number integer NOT NULL, content text NOT NULL,
  summary text NOT NULL, metadata jsonb NOT NULL DEFAULT '{{}}', source_id text NOT NULL DEFAULT 'src',
  embedding {schema}.vector({dimensions}), created_at timestamptz NOT NULL DEFAULT now(), UNIQUE (url, chunk_number));
"""
FUNCTION = """
CREATE FUNCTION match_{table} (query_embedding vector, match_count int DEFAULT 10, filter jsonb DEFAULT '{{}}', source_filter text DEFAULT NULL)
RETURNS TABLE (id bigint, url varchar, chunk_number int, content text, metadata jsonb, source_id text, similarity float)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT id, url, chunk_number, content, metadata, source_id, 1 - (embedding <=> query_embedding) AS similarity
  FROM {table} WHERE metadata @> filter AND (source_filter IS NULL OR source_id = source_filter)
  ORDER BY embedding <=> query_embedding LIMIT match_count;
END $$;
"""
GRANTS = "GRANT USAGE ON SCHEMA public TO service_role; GRANT ALL ON ALL TABLES IN SCHEMA public TO service_role;"
