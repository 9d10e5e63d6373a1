import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

/** Where `npm run mock`, or any Waypost, listens while the dashboard is developed. */
const server = process.env.WAYPOST_SERVER ?? "http://127.0.0.1:8099";

export default defineConfig({
  plugins: [svelte()],
  build: {
    outDir: "../dist",
    emptyOutDir: true,
    target: "es2023",
    // Everything is a file of its own: the server's Content-Security-Policy and its caching know files, not data URLs.
    assetsInlineLimit: 0,
    // The map is one library and is loaded after the page is usable.
    chunkSizeWarningLimit: 1200,
  },
  server: { port: 5173, proxy: { "/api": server } },
});
