import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // Properties are tried hundreds of times, also on machines that have other things to do.
    testTimeout: 30_000,
    include: ["tests/unit/**/*.test.{ts,tsx}"],
    typecheck: { enabled: true, include: ["tests/types/**/*.test-d.{ts,tsx}"], tsconfig: "tsconfig.json" },
  },
});
