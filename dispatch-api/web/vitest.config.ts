import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [svelte()],
  test: { include: ["{shared,dashboard}/src/**/*.test.ts", "dev/*.test.ts"], environment: "node" },
});
