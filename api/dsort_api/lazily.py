"""Parts of a manifest that are rarely met, and cost nothing until they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class Lazily:
    """Marks a field whose model is imported, and its validators built, with the first value that it gets.

    The value may be None. What is wrong within it is reported by its whole path.
    """

    model: Callable[[], type[BaseModel]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A function in place of the model's schema; pydantic puts the errors that it raises below the field's path."""
        return core_schema.nullable_schema(
            core_schema.no_info_plain_validator_function(lambda value: self.model().model_validate(value))
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The model's schema."""
        return handler(self.model().__pydantic_core_schema__)
