import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/unit/**/*.test.{ts,tsx}"],
    typecheck: { enabled: true, include: ["tests/types/**/*.test-d.{ts,tsx}"], tsconfig: "tsconfig.json" },
  },
});
