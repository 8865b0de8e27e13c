"""Template tables in several shapes, and rows for DEV."""

COMPONENTS = """
CREATE TYPE template_component_type AS ENUM ('action', 'group', 'sequence');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
CREATE TABLE archon_template_components (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) UNIQUE NOT NULL, description text DEFAULT '',
  component_type template_component_type NOT NULL DEFAULT 'group', instruction_text text NOT NULL,
  required_tools jsonb DEFAULT '[]', estimated_duration integer DEFAULT 5, labels text[], priority varchar(20) DEFAULT 'medium',
  is_active boolean DEFAULT true, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
  length integer GENERATED ALWAYS AS (length(instruction_text)) STORED, number integer GENERATED ALWAYS AS IDENTITY);
CREATE TRIGGER touch BEFORE UPDATE ON archon_template_components FOR EACH ROW EXECUTE FUNCTION touch();
"""
DEFINITIONS = """
CREATE TABLE archon_template_definitions (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) NOT NULL UNIQUE, title text NOT NULL,
  parent_template_id uuid REFERENCES archon_template_definitions (id) ON DELETE SET NULL,
  template_data jsonb NOT NULL DEFAULT '{}', category varchar(100) DEFAULT 'workflow', created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(), is_active boolean DEFAULT true, CHECK (id <> parent_template_id));
"""
MODERN = COMPONENTS + DEFINITIONS
LEGACY = """
CREATE TABLE archon_template_components (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255), description text DEFAULT '', instruction_text text NOT NULL,
  required_tools jsonb DEFAULT '[]', author text DEFAULT 'somebody',
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
INSERT INTO archon_template_components (name, instruction_text) VALUES
  ('group::one', 'old one'), ('group::house', 'only here'), ('group::same', 'same');
"""
# What the schema phase would do to LEGACY.
ALIGNED = """
CREATE TYPE template_component_type AS ENUM ('action', 'group', 'sequence');
ALTER TABLE archon_template_components
  ADD component_type template_component_type NOT NULL DEFAULT 'group', ADD estimated_duration integer DEFAULT 5, ADD labels text[],
  ADD priority varchar(20) DEFAULT 'medium', ADD is_active boolean DEFAULT true;
"""
ROWS = """
INSERT INTO archon_template_components (name, instruction_text, labels) VALUES
  ('group::one', E'new one\nit''s 100%(sure)s \\\\ "quoted" 🙂', '{a,"b,c",NULL}'), ('group::two', 'zwei', NULL), ('group::same', 'same', NULL);
INSERT INTO archon_template_definitions (name, title, template_data) VALUES
  ('zz_root', 'Root', '{"template_content": "{{group::one}}\\n{{USER_TASK}}\\n{{group::two}} {{group::one}}"}');
INSERT INTO archon_template_definitions (name, title, parent_template_id, template_data)
  SELECT 'aa_leaf', 'Leaf', id, '{"template_content": "{{USER_TASK}}", "n": 1.50}' FROM archon_template_definitions;
"""
PROJECTS = "CREATE TABLE archon_projects (id int PRIMARY KEY); INSERT INTO archon_projects VALUES (1);"
