"""The language-model machine: adapters, slot images, and one decoder for all roles of a base. No ray."""
