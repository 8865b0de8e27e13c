-- A hosted database: schemas, extensions and roles beside the schema that is backed up.
CREATE SCHEMA extensions;
CREATE SCHEMA auth;
CREATE ROLE "role with ""quotes""";
CREATE TYPE auth.level AS ENUM ('one', 'two');
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text, level auth.level);
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_user::text $$;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT NULL::uuid $$;
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT '{}'::jsonb $$;
CREATE FUNCTION auth.grade() RETURNS auth.level LANGUAGE sql STABLE AS $$ SELECT 'one'::auth.level $$;
CREATE FUNCTION auth.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE SEQUENCE auth.numbers;
CREATE EXTENSION vector SCHEMA extensions;
CREATE EXTENSION likecrypto SCHEMA extensions;
CREATE EXTENSION liketrgm SCHEMA public;
INSERT INTO auth.users VALUES ('00000000-0000-0000-0000-000000000001', 'a@example.org');
CREATE TABLE public.archon_projects (
  id uuid PRIMARY KEY, owner uuid REFERENCES auth.users DEFAULT auth.uid(), n bigint DEFAULT nextval('auth.numbers'),
  title text, sum bytea DEFAULT extensions.digest('x'), v extensions.vector(2), CHECK (extensions.digest(title) IS NOT NULL));
CREATE INDEX odd ON public.archon_projects (title public.odd_ops);
COMMENT ON INDEX public.odd IS 'by an operator class that is not bundled';
COMMENT ON CONSTRAINT archon_projects_owner_fkey ON public.archon_projects IS 'outside';
CREATE INDEX summed ON public.archon_projects (extensions.digest(title, 'md5'));
CREATE TRIGGER stamped BEFORE INSERT ON public.archon_projects FOR EACH ROW EXECUTE FUNCTION auth.stamp();
ALTER TABLE public.archon_projects ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON public.archon_projects TO "role with ""quotes""" USING (owner = auth.uid() OR
  EXISTS (SELECT FROM auth.users u WHERE u.id = owner AND u.email = auth.jwt() ->> 'email'));
CREATE VIEW public.people AS SELECT u.id, u.email FROM auth.users u;
ALTER TABLE public.archon_projects OWNER TO "role with ""quotes""";
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE public.remote (a int) SERVER elsewhere;
CREATE COLLATION extensions.sorted (provider = libc, locale = 'C');
CREATE TABLE public.sorted (a text COLLATE extensions.sorted);
INSERT INTO public.archon_projects (id, owner, title, v)
  VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 'one', '[1,2]');
