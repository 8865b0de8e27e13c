# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options by which a module reaches the embedding service."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  base_url:
    description: The embedding service's OpenAI-compatible address. A bare host gets C(/v1).
    type: str
    required: true
  model:
    description: The model's name as the service knows it.
    type: str
    required: true
  dimensions:
    description: Length of the model's vectors and of the C(embedding) columns, in numbers.
    type: int
    required: true
  timeout:
    description: Seconds one embedding request may take.
    type: float
    default: 60.0
  token_file:
    description: A file of mode 0600 with the bearer token that the service wants, on the host that the task runs on.
    type: path
"""
